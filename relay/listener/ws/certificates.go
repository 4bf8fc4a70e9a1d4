package ws

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How a changed certificate is noticed.
const (
	// certQuiet is how long the folders must be quiet before the files are
	// read: the two are seldom written in the same instant.
	certQuiet = 100 * time.Millisecond
	// certLimit bounds that wait in a folder that never is.
	certLimit = time.Second
	// certPoll is how often the files are read anyway: not every file system
	// reports what another machine changes.
	certPoll = time.Minute
)

// Certificates is a TLS certificate from two files that is loaded anew when
// they change. It is safe for concurrent use.
type Certificates struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	// Owned by whoever loads: LoadCertificates, then Watch.
	certPEM, keyPEM []byte
	broken          string // the error last warned of, "" when the pair was good
}

// LoadCertificates reads a certificate chain and its key, both PEM, and fails
// when they are not a pair. logger is told of changes; nil means nobody. It
// does not look at the files again before [Certificates.Watch].
func LoadCertificates(certFile, keyFile string, logger *slog.Logger) (*Certificates, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	c := &Certificates{certFile: certFile, keyFile: keyFile, log: logger.With("cert", certFile, "key", keyFile)}
	if _, err := c.load(); err != nil {
		return nil, err
	}
	return c, nil
}

// GetCertificate is for [tls.Config]: it returns the certificate loaded last,
// whatever name the client asks for.
func (c *Certificates) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// Watch loads the pair anew whenever the files change, until ctx ends; then it
// returns nil. Only one call may run at a time. A change is usually seen within
// 0.1 s, at most within 1 s, and within a minute where the file system does not
// report it. A pair that cannot be used is a warning, and the old one stays:
// often the other half is just about to come. It is the folders that are watched,
// because Kubernetes changes a mounted Secret by swapping a symlink beside the
// files. The error says that a folder cannot be watched.
func (c *Certificates) Watch(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch certificate %s: %w", c.certFile, err)
	}
	defer watcher.Close()
	folders := []string{filepath.Dir(c.certFile), filepath.Dir(c.keyFile)} // adding one twice does nothing
	for _, f := range folders {
		if err := watcher.Add(f); err != nil {
			return fmt.Errorf("watch certificate %s: %w", c.certFile, err)
		}
	}
	rewatch := func() {
		for _, f := range folders {
			_ = watcher.Add(f) // the next look tries again
		}
	}
	c.watch(ctx, watcher.Events, watcher.Errors, rewatch)
	return nil
}

// watch works until ctx ends or the channels are closed.
func (c *Certificates) watch(ctx context.Context, events <-chan fsnotify.Event, errs <-chan error, rewatch func()) {
	c.look() // what changed since it was loaded
	poll := time.NewTicker(certPoll)
	defer poll.Stop()
	quiet := time.NewTimer(0)
	quiet.Stop()
	defer quiet.Stop()
	var since time.Time // of the first event not looked at yet; zero: none
	for {
		var ok bool
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
			rewatch() // in case a folder was made anew
			c.look()
			continue
		case <-quiet.C:
			since = time.Time{}
			c.look()
			continue
		case _, ok = <-events:
		case _, ok = <-errs: // events were lost, so look as well
		}
		if !ok {
			return
		}
		if since.IsZero() {
			since = time.Now()
		}
		quiet.Reset(max(0, min(certQuiet, certLimit-time.Since(since))))
	}
}

// look loads the files and says what came of it.
func (c *Certificates) look() {
	changed, err := c.load()
	if err != nil {
		if c.broken != err.Error() {
			c.log.Warn("certificate not usable, the old one stays", "err", err)
		}
		c.broken = err.Error()
		return
	}
	c.broken = ""
	if changed {
		leaf := c.current.Load().Leaf
		c.log.Info("certificate changed", "names", leaf.DNSNames, "until", leaf.NotAfter)
	}
}

// load reads the files and makes them current when they are a pair that differs
// from the one before.
func (c *Certificates) load() (changed bool, err error) {
	certPEM, err := os.ReadFile(c.certFile)
	if err != nil {
		return false, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(c.keyFile)
	if err != nil {
		return false, fmt.Errorf("read key: %w", err)
	}
	if bytes.Equal(certPEM, c.certPEM) && bytes.Equal(keyPEM, c.keyPEM) {
		return false, nil
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return false, fmt.Errorf("certificate %s with key %s: %w", c.certFile, c.keyFile, err)
	}
	c.certPEM, c.keyPEM = certPEM, keyPEM
	c.current.Store(&pair)
	return true, nil
}

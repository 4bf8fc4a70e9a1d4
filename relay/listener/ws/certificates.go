package ws

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync/atomic"

	"github.com/crosspod/crosspod/internal/filewatch"
	"github.com/crosspod/crosspod/internal/secrettext"
)

// maxPEM bounds what is read of a certificate chain and of a key, in bytes.
const maxPEM = 1 << 20

// Certificates is a TLS certificate from two files that is loaded again when
// they change. It is safe for concurrent use.
type Certificates struct {
	certFile, keyFile string
	log               *slog.Logger
	current           atomic.Pointer[tls.Certificate]

	// Owned by LoadCertificates, then by Watch.
	certPEM, keyPEM []byte
	broken          string // the last error that was logged, "" when the pair was good
}

// LoadCertificates reads a certificate chain and its key, both PEM, and fails
// when they are not a pair. It logs changes to logger; nil discards them. It does not
// read the files again before [Certificates.Watch].
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

// Watch loads the pair again whenever the files change, until ctx ends; then it
// returns nil. Only one call may run at a time. A change is usually seen within
// 0.1 s, at most within 1 s, and within a minute where the file system does not
// report it or the system has no watch left. A pair that cannot be used is a
// warning, and the old one stays: often the other half is just about to come. Watch
// watches the folders, because Kubernetes changes a mounted Secret by swapping a
// symlink beside the files. The error says that a folder is not there.
func (c *Certificates) Watch(ctx context.Context) error {
	if err := filewatch.Watch(ctx, c.log, c.look, c.certFile, c.keyFile); err != nil {
		return fmt.Errorf("watch certificate: %w", err)
	}
	return nil
}

// look loads the files and logs the result.
func (c *Certificates) look() {
	changed, err := c.load()
	if err != nil {
		if c.broken != err.Error() {
			c.log.Warn("certificate cannot be used, keeping the old one", "err", err)
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
	certPEM, err := readPEM(c.certFile)
	if err != nil {
		return false, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := readPEM(c.keyFile)
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

// readPEM reads a file without the byte order mark that some editors put before
// its first line: with it, PEM would silently skip the first block.
func readPEM(file string) ([]byte, error) {
	text, err := filewatch.Read(file, maxPEM)
	return bytes.TrimPrefix(text, []byte(secrettext.ByteOrderMark)), err
}

package letsencrypt

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// Config says which certificates to get, and from which directory.
type Config struct {
	// DataDir is the folder whose sub-folder letsencrypt keeps keys and
	// certificates; it is made when missing. Several pods may share it.
	DataDir string
	// Domains are the names to get certificates for, one each, in lower case and
	// without a trailing dot. The caller checks that certificates for them are
	// possible. A handshake that asks for another name, or for none, is refused.
	Domains []string
	// Email is given to the directory when not empty.
	Email string
	// DirectoryURL is an ACME directory; empty means Let's Encrypt's.
	DirectoryURL string
	// CAFile has the certificates, PEM, that vouch for the directory's own;
	// empty means those of the system.
	CAFile string
	// Logger logs certificates that could not be got; nil means nothing is logged.
	Logger *slog.Logger
	// Served, when not nil, is called with the certificate of each handshake.
	Served func(*tls.Certificate)
}

// ErrNotKept means that the data folder cannot be written.
var ErrNotKept = errors.New("keep certificates")

// requestTimeout bounds one request to the directory.
const requestTimeout = 30 * time.Second

// TLSConfig returns a server's configuration that gets each certificate at the
// first handshake that asks for its domain, and later renews it by itself. Using it
// means agreeing to the directory's terms of service. It fails if the data folder
// cannot be written.
//
// The goroutines that renew belong to autocert and end only with the process.
func TLSConfig(c Config) (*tls.Config, error) {
	if c.DataDir == "" || len(c.Domains) == 0 {
		return nil, errors.New("letsencrypt: want a data folder and at least one domain")
	}
	log := c.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	client := &http.Client{Timeout: requestTimeout}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("letsencrypt: read the directory's certificates: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("letsencrypt: no certificate in %s", c.CAFile)
		}
		transport := http.DefaultTransport.(*http.Transport).Clone()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots}
		client.Transport = transport
	}
	dir := filepath.Join(c.DataDir, "letsencrypt")
	if err := tryToKeep(dir); err != nil {
		return nil, fmt.Errorf("letsencrypt: %w: %w", ErrNotKept, err)
	}
	manager := &autocert.Manager{
		Prompt:     autocert.AcceptTOS,
		Cache:      autocert.DirCache(dir),
		HostPolicy: autocert.HostWhitelist(c.Domains...),
		Email:      c.Email,
		Client:     &acme.Client{DirectoryURL: c.DirectoryURL, HTTPClient: client},
	}
	return &tls.Config{
		// Never h2: a WebSocket upgrade is HTTP/1.1.
		NextProtos: []string{"http/1.1", acme.ALPNProto},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			cert, err := manager.GetCertificate(hello)
			if err != nil {
				// Scanners ask for names of other hosts all day.
				level := slog.LevelDebug
				if slices.Contains(c.Domains, strings.ToLower(hello.ServerName)) {
					level = slog.LevelWarn
				}
				log.Log(hello.Context(), level, "no certificate", "domain", hello.ServerName, "err", err)
			} else if c.Served != nil && !slices.Contains(hello.SupportedProtos, acme.ALPNProto) { // a challenge has another
				c.Served(cert)
			}
			return cert, err
		},
	}, nil
}

// tryToKeep creates the folder and a file in it, so that a folder that cannot be
// written fails the start and not each handshake.
func tryToKeep(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "start-*.tmp")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

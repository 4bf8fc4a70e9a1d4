package letsencrypt

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTLSConfig(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d := filepath.Join(t.TempDir(), "d")
	tests := []struct {
		name string
		c    Config
		err  string
	}{
		{name: "good", c: Config{DataDir: d, Domains: []string{"relay.example.com"}}},
		{name: "no folder", c: Config{Domains: []string{"relay.example.com"}}, err: "want a data folder"},
		{name: "no domain", c: Config{DataDir: d}, err: "at least one domain"},
		{name: "folder that is a file", c: Config{DataDir: empty, Domains: []string{"relay.example.com"}}, err: "keep certificates"},
		{name: "missing file", c: Config{DataDir: d, Domains: []string{"relay.example.com"}, CAFile: empty + "x"}, err: "read the directory's certificates"},
		{name: "empty file", c: Config{DataDir: d, Domains: []string{"relay.example.com"}, CAFile: empty}, err: "no certificate in"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg, err := TLSConfig(tt.c)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("TLSConfig: %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{"http/1.1", "acme-tls/1"}; !slices.Equal(cfg.NextProtos, want) {
				t.Errorf("ALPN %q, want %q", cfg.NextProtos, want)
			}
			kept, err := os.ReadDir(filepath.Join(d, "letsencrypt"))
			if err != nil || len(kept) != 0 {
				t.Errorf("the folder holds %v, %v; want it made and empty", kept, err)
			}
		})
	}
}

// A certificate that could not be got is a warning, however a client writes the
// name.
func TestFailureIsAWarning(t *testing.T) {
	var log bytes.Buffer
	cfg, err := TLSConfig(Config{DataDir: t.TempDir(), Domains: []string{"relay.example.com"}, DirectoryURL: "http://127.0.0.1:1/", Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"relay.example.com", "Relay.Example.COM"} {
		log.Reset()
		if _, err := cfg.GetCertificate(&tls.ClientHelloInfo{ServerName: name}); err == nil || !strings.Contains(log.String(), "level=WARN msg=\"no certificate\"") {
			t.Errorf("%s: %v, the log is %q, want a warning", name, err, log.String())
		}
	}
}

// A name that is not ours costs the directory no request.
func TestOtherDomainIsRefused(t *testing.T) {
	cfg, err := TLSConfig(Config{DataDir: t.TempDir(), Domains: []string{"relay.example.com"}, DirectoryURL: "http://127.0.0.1:1/"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "other.example.com"} {
		hello := &tls.ClientHelloInfo{ServerName: name}
		if _, err := cfg.GetCertificate(hello); err == nil || strings.Contains(err.Error(), "127.0.0.1") {
			t.Errorf("certificate for %q: %v, want it refused here", name, err)
		}
	}
}

// A certificate that is kept is shown, and handed to what watches its end.
func TestServed(t *testing.T) {
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"relay.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(60 * 24 * time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "letsencrypt"), 0o700); err != nil {
		t.Fatal(err)
	}
	kept := append(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})...)
	if err := os.WriteFile(filepath.Join(dir, "letsencrypt", "relay.example.com"), kept, 0o600); err != nil {
		t.Fatal(err)
	}
	var served []*tls.Certificate
	cfg, err := TLSConfig(Config{DataDir: dir, Domains: []string{"relay.example.com"}, DirectoryURL: "http://127.0.0.1:1/", Served: func(c *tls.Certificate) { served = append(served, c) }})
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	defer near.Close()
	shaken := make(chan error, 1)
	go func() {
		defer far.Close()
		shaken <- tls.Server(far, cfg).Handshake()
	}()
	client := tls.Client(near, &tls.Config{ServerName: "relay.example.com", InsecureSkipVerify: true})
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-shaken; err != nil {
		t.Fatal(err)
	}
	if len(served) != 1 || !served[0].Leaf.NotAfter.Equal(client.ConnectionState().PeerCertificates[0].NotAfter) {
		t.Errorf("told of %v", served)
	}
}

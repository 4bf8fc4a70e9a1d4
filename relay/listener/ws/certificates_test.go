package ws_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/relay/listener/ws"
)

// lines is a slog output that hands over one line at a time.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(bytes.TrimSpace(p))
	return len(p), nil
}

func (l lines) wait(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-l:
		if !strings.Contains(got, want) {
			t.Fatalf("logged %s, want %s", got, want)
		}
	case <-t.Context().Done():
		t.Fatalf("not logged: %s", want)
	}
}

// name returns the name in the certificate that a client is shown.
func name(t *testing.T, c *ws.Certificates) string {
	t.Helper()
	cert, err := c.GetCertificate(&tls.ClientHelloInfo{ServerName: "any"})
	if err != nil {
		t.Fatal(err)
	}
	return cert.Leaf.DNSNames[0]
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	cert1, key1 := testCert(t, "one.example")
	cert2, key2 := testCert(t, "two.example")

	if _, err := ws.LoadCertificates(certFile, keyFile, nil); err == nil {
		t.Error("loaded files that do not exist")
	}
	writeFile(t, certFile, cert1)
	writeFile(t, keyFile, key2)
	if _, err := ws.LoadCertificates(certFile, keyFile, nil); err == nil {
		t.Error("loaded a certificate with another's key")
	}
	writeFile(t, keyFile, key1)
	log := make(lines, 100)
	c, err := ws.LoadCertificates(certFile, keyFile, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if got := name(t, c); got != "one.example" {
		t.Errorf("certificate of %s", got)
	}

	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- c.Watch(ctx) }()

	// Half of a new pair, then nonsense, keep the old one; a whole pair replaces
	// it. What changes before Watch has begun is seen by its first look.
	writeFile(t, certFile, cert2)
	log.wait(t, "keeping the old one")
	if got := name(t, c); got != "one.example" {
		t.Errorf("certificate of %s while half was changed", got)
	}
	writeFile(t, keyFile, key2)
	log.wait(t, "certificate changed")
	if got := name(t, c); got != "two.example" {
		t.Errorf("certificate of %s after the change", got)
	}
	writeFile(t, certFile, []byte("nonsense"))
	log.wait(t, "keeping the old one")
	if got := name(t, c); got != "two.example" {
		t.Errorf("certificate of %s with a broken file", got)
	}

	stop()
	if err := <-watched; err != nil {
		t.Errorf("Watch = %v", err)
	}
}

// An editor may put a byte order mark before a chain and its key.
func TestCertificatesWithByteOrderMark(t *testing.T) {
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	leaf, key := testCert(t, "leaf.example")
	issuer, _ := testCert(t, "issuer.example")
	const mark = "\ufeff"
	writeFile(t, certFile, append([]byte(mark), append(leaf, issuer...)...))
	writeFile(t, keyFile, append([]byte(mark), key...))
	c, err := ws.LoadCertificates(certFile, keyFile, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := name(t, c); got != "leaf.example" {
		t.Errorf("certificate of %s", got)
	}
}

// TestCertificatesOfKubernetes changes files as a mounted Secret does: the files
// are symlinks into ..data, itself a symlink that is swapped.
func TestCertificatesOfKubernetes(t *testing.T) {
	dir := t.TempDir()
	version := func(name string, cert, key []byte) {
		folder := filepath.Join(dir, name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(folder, "tls.crt"), cert)
		writeFile(t, filepath.Join(folder, "tls.key"), key)
		next := filepath.Join(dir, "..data_tmp")
		if err := os.Symlink(name, next); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	cert1, key1 := testCert(t, "one.example")
	cert2, key2 := testCert(t, "two.example")
	version("..1", cert1, key1)
	for _, f := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", f), filepath.Join(dir, f)); err != nil {
			t.Fatal(err)
		}
	}
	log := make(lines, 100)
	c, err := ws.LoadCertificates(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"), slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- c.Watch(ctx) }()
	version("..2", cert2, key2)
	log.wait(t, "certificate changed")
	if got := name(t, c); got != "two.example" {
		t.Errorf("certificate of %s after the swap", got)
	}
	stop()
	if err := <-watched; err != nil {
		t.Errorf("Watch = %v", err)
	}
}

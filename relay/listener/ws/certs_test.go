package ws_test

import (
	"crypto/tls"
	"os"
	"testing"

	"github.com/crosspod/crosspod/internal/test/testcert"
)

// testCert returns a certificate for name in PEM.
func testCert(tb testing.TB, name string) (certPEM, keyPEM []byte) {
	tb.Helper()
	return testcert.New(tb, name).PEM(tb)
}

// testTLS returns a server's and a client's config that fit each other.
func testTLS(tb testing.TB) (server, client *tls.Config) {
	tb.Helper()
	c := testcert.New(tb, "relay.example")
	return &tls.Config{Certificates: []tls.Certificate{c.Certificate}}, &tls.Config{RootCAs: c.Roots, ServerName: "relay.example"}
}

// writeFile makes path hold b in one step, so that nobody reads half of it.
func writeFile(tb testing.TB, path string, b []byte) {
	tb.Helper()
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		tb.Fatal(err)
	}
}

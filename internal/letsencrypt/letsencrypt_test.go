package letsencrypt

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/internal/deptest"
)

func TestImports(t *testing.T) { deptest.OnlyOurs(t) }

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
		{name: "address", c: Config{DataDir: d, Domains: []string{"relay.example.com:443"}}, err: "without scheme, port or wildcard"},
		{name: "wildcard", c: Config{DataDir: d, Domains: []string{"*.example.com"}}, err: "without scheme, port or wildcard"},
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

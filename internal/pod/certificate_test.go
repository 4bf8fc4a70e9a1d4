package pod

import (
	"errors"
	"strings"
	"testing"
)

// What Let's Encrypt can give no certificate for is refused, and names are written
// as clients and directories write them.
func TestDomains(t *testing.T) {
	for value, want := range map[string]string{
		"relay.example.com.":                     "relay.example.com",
		"Relay.Example.COM":                      "relay.example.com",
		"a.example.com, A.example.com.":          "a.example.com",
		"bücher.example.com":                     "xn--bcher-kva.example.com",
		"203.0.113.7":                            "error: want the name that peers dial",
		"2001:db8::1":                            "error: want the name that peers dial",
		"[2001:db8::1]":                          "error: want the name that peers dial",
		"1.2.3":                                  "error: want a name such as",
		"*.example.com":                          "error: want each name by itself",
		"relay":                                  "error: there are no certificates for a name of one part",
		"localhost":                              "error: there are no certificates for a name of one part",
		"relay.":                                 "error: there are no certificates for a name of one part",
		"https://relay.example.com":              "error: without scheme, user, port or path",
		"relay.example.com:443":                  "error: without scheme, user, port or path",
		"relay_1.example.com":                    "error: letters, digits and hyphens",
		"relay..example.com":                     "error: letters, digits and hyphens",
		".example.com":                           "error: letters, digits and hyphens",
		"-a.example.com":                         "error: letters, digits and hyphens",
		strings.Repeat("a", 64) + ".example.com": "error: letters, digits and hyphens",
		"relay.local":                            "error: below .local",
		"relay.corp.internal":                    "error: below .internal",
	} {
		r, _, err := read(t, []string{"-e", "r:443", "-s", "x", "-d", "data", "-a", value}, nil)
		err = errors.Join(err, r.Validate())
		got := strings.Join(r.ACME.Domains, " ")
		if wrong, ok := strings.CutPrefix(want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), "--letsencrypt-domains") || !strings.Contains(err.Error(), wrong) {
				t.Errorf("%s: %q, %v; want it to say %q", value, got, err, wrong)
			}
		} else if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", value, got, err, want)
		}
	}
	r, _, err := read(t, []string{"-e", "r:443", "-s", "x", "-d", "data", "-a", "relay.internal", "--letsencrypt-directory", "https://ca.internal/acme"}, nil)
	if err = errors.Join(err, r.Validate()); err != nil {
		t.Errorf("a private name and a private directory: %v", err)
	}
}

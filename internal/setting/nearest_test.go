package setting

import "testing"

func TestNearest(t *testing.T) {
	words := []string{"start", "cluster", "dev", "nc", "token", "listen-address", "exposed-address", "cluster-peers", "cluster-auth-secret-file", "cluster-auth-secret"}
	for text, want := range map[string]string{
		"strt": "start", "sart": "start", "starts": "start", "tokne": "token", "nx": "nc", "dav": "dev",
		"listen-addr": "listen-address", "expose-address": "exposed-address", "LISTEN": "",
		"cluster-secret": "cluster-auth-secret", "cluster-secret-file": "cluster-auth-secret-file", "address": "listen-address",
		"serve": "", "x": "", "": "", "extra": "", "once": "",
	} {
		if got := Nearest(text, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", text, got, want)
		}
	}
}

package relayurl

import (
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	tests := []struct {
		in               string
		addr, host, name string
		tls              bool
	}{
		{"rel://relay.example.com", "relay.example.com:80", "relay.example.com", "relay.example.com", false},
		{"rels://relay.example.com", "relay.example.com:443", "relay.example.com", "relay.example.com", true},
		{"relay.example.com", "relay.example.com:443", "relay.example.com", "relay.example.com", true},
		{"relay.example.com:8443", "relay.example.com:8443", "relay.example.com:8443", "relay.example.com", true},
		{"localhost:443", "localhost:443", "localhost", "localhost", true},
		{"REL://Relay:8080/", "Relay:8080", "Relay:8080", "Relay", false},
		{"rels://relay/relay", "relay:443", "relay", "relay", true},
		{"rels://relay:443/another/path", "relay:443", "relay", "relay", true},
		{"rel://relay:443", "relay:443", "relay:443", "relay", false},
		{"rel://192.0.2.1", "192.0.2.1:80", "192.0.2.1", "192.0.2.1", false},
		{"rel://[2001:db8::1]", "[2001:db8::1]:80", "[2001:db8::1]", "2001:db8::1", false},
		{"[2001:db8::1]:8080", "[2001:db8::1]:8080", "[2001:db8::1]:8080", "2001:db8::1", true},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := Parse(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			want := URL{Text: got.Text, Addr: tt.addr, Host: tt.host, Name: tt.name, TLS: tt.tls}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			if scheme := map[bool]string{false: "rel://", true: "rels://"}[tt.tls]; got.Text != scheme+tt.addr {
				t.Errorf("text %q", got.Text)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	tests := []struct{ in, want string }{
		{"", "no host"},
		{"rel://", "no host"},
		{":443", "no host"},
		{"wss://relay/relay", `scheme "wss", want rel`},
		{"https://relay", `scheme "https", want rel`},
		{"rel://relay:0", "port"},
		{"rel://relay:65536", "port"},
		{"rel://relay:http", "port"},
		{"::1", "in brackets"},
		{"rel://2001:db8::1", "in brackets"},
		{"rel://user:pass@relay", "a relay address has no"},
		{"rel://relay?x=1", "a relay address has no"},
		{"rel://relay#x", "a relay address has no"},
		{"rel://relay?", "a relay address has no"},
		{"rel://re lay", "invalid"},
		{"rels:/relay", "no port"}, // a scheme with one slash is a host
		{"rels://relay:", "no port"},
		{"rels://[2001:db8::1]:", "no port"},
		{"rels://re*lay", "want a name"},
		{"rels://relay,other", "want a name"},
		{`rels://"relay"`, "want a name"},
		{"rels://rélais.example", "want a name"},
	}
	for _, tt := range tests {
		t.Run(tt.in, func(t *testing.T) {
			got, err := Parse(tt.in)
			if err == nil {
				t.Fatalf("Parse = %+v, want an error", got)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Parse = %v, want it to say %q", err, tt.want)
			}
		})
	}
}

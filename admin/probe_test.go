package admin

import (
	"bytes"
	"context"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/messages"
)

// probed is a listener for peers that does with the probe what the test wants.
type probed struct {
	*httptest.Server
	got chan []byte // first messages
}

func newProbed(t *testing.T, withTLS bool, then func(context.Context, *websocket.Conn)) *probed {
	t.Helper()
	p := &probed{got: make(chan []byte, 1)}
	p.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/relay" {
			http.NotFound(w, r)
			return
		}
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer conn.CloseNow()
		kind, msg, err := conn.Read(r.Context())
		if err != nil || kind != websocket.MessageBinary {
			t.Errorf("first message: %v, %v", kind, err)
		}
		p.got <- msg
		if then != nil {
			then(r.Context(), conn)
		}
	}))
	if withTLS {
		p.StartTLS()
	} else {
		p.Start()
	}
	t.Cleanup(p.Close)
	return p
}

func (p *probed) address() string { return p.Listener.Addr().String() }

func TestProbePassesWhereTheTokenIsRefused(t *testing.T) {
	p := newProbed(t, false, nil)
	valid, err := NewProbe(ProbeConfig{ListenAddress: p.address(), ExposedAddress: "rels://relay.example:443"})(t.Context())
	if err != nil || valid {
		t.Errorf("probe = %t, %v, want no valid certificate and no error", valid, err)
	}
	id, token, err := messages.ParseAuth(<-p.got)
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Concat([]byte{1}, make([]byte, 32), []byte("healthcheck"))
	if id != messages.HashID("healthcheck-agent") || !bytes.Equal(token, want) {
		t.Errorf("presented %v, %q, want the health check's id and %q", id, token, want)
	}
}

func TestProbeFails(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	notFound := httptest.NewServer(http.NotFoundHandler())
	defer notFound.Close()
	elsewhere := httptest.NewServer(http.RedirectHandler("http://relay.example/relay", http.StatusFound))
	defer elsewhere.Close()
	answers := newProbed(t, false, func(ctx context.Context, conn *websocket.Conn) {
		if err := conn.Write(ctx, websocket.MessageBinary, []byte("\x01\x07rel://x")); err != nil {
			t.Errorf("answer: %v", err)
		}
	})
	plain := newProbed(t, false, nil)
	tests := []struct {
		name, address string
		tls           bool
		wantErr       string // part of it
	}{
		{"nobody there", closed.Addr().String(), false, "refused"},
		{"no relay", notFound.Listener.Addr().String(), false, "404"},
		{"sent elsewhere", elsewhere.Listener.Addr().String(), false, "302"},
		{"token accepted", answers.address(), false, "was answered"},
		{"plain where TLS should be", plain.address(), true, "HTTP response to HTTPS"},
		{"no address", "nonsense", false, "missing port"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			valid, err := NewProbe(ProbeConfig{ListenAddress: tt.address, TLS: tt.tls})(t.Context())
			if valid || err == nil || !strings.Contains(err.Error(), tt.wantErr) || !strings.Contains(err.Error(), tt.address) {
				t.Errorf("probe = %t, %v, want an error with %q and the address", valid, err, tt.wantErr)
			}
		})
	}
}

func TestProbeDoesNotWaitForEver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p := newProbed(t, false, func(ctx context.Context, conn *websocket.Conn) {
		cancel() // the time of the probe is over
		_, _, _ = conn.Read(ctx)
	})
	if valid, err := NewProbe(ProbeConfig{ListenAddress: p.address()})(ctx); valid || err == nil {
		t.Errorf("probe of a relay that does not refuse = %t, %v, want an error", valid, err)
	}
}

// httptest's certificate is valid for example.com and 127.0.0.1.
func TestProbeLooksAtTheCertificate(t *testing.T) {
	p := newProbed(t, true, nil)
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	tests := []struct {
		name, exposed string
		roots         *x509.CertPool
		valid         bool
	}{
		{"valid", "rels://example.com:443", roots, true},
		{"valid without a port", "rels://example.com", roots, true},
		{"valid with a path", "rels://EXAMPLE.com:443/x", roots, true},
		{"valid for an address", "rels://127.0.0.1:443", roots, true},
		{"another name", "rels://relay.example.org:443", roots, false},
		{"IPv6 address", "rels://[::2]:443", roots, false},
		{"nobody believes it", "rels://example.com:443", x509.NewCertPool(), false},
		{"peers come without TLS", "rel://example.com:80", roots, false},
		{"not said", "", roots, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			valid, err := NewProbe(ProbeConfig{
				ListenAddress: p.address(), TLS: true, ExposedAddress: tt.exposed, RootCAs: tt.roots,
			})(t.Context())
			if err != nil || valid != tt.valid {
				t.Errorf("probe = %t, %v, want %t", valid, err, tt.valid)
			}
			<-p.got
		})
	}
}

func TestLocalAddresses(t *testing.T) {
	tests := []struct {
		listen string
		want   []string
	}{
		{":443", []string{"127.0.0.1:443", "[::1]:443"}},
		{"0.0.0.0:443", []string{"127.0.0.1:443", "[::1]:443"}},
		{"[::]:443", []string{"[::1]:443", "127.0.0.1:443"}},
		{"10.1.2.3:443", []string{"10.1.2.3:443"}},
		{"[fd00::1]:443", []string{"[fd00::1]:443"}},
		{"localhost:443", []string{"localhost:443"}},
		{"443", []string{"443"}},
	}
	for _, tt := range tests {
		if got := localAddresses(tt.listen); !slices.Equal(got, tt.want) {
			t.Errorf("localAddresses(%q) = %q, want %q", tt.listen, got, tt.want)
		}
	}
}

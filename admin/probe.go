package admin

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"github.com/coder/websocket"
)

// ProbeConfig says where the relay listens and how peers know it.
type ProbeConfig struct {
	// ListenAddress is where the relay listens for peers, "host:port" or
	// ":port". An unspecified host is dialled on loopback.
	ListenAddress string
	// TLS says that it speaks TLS there.
	TLS bool
	// ExposedAddress is what peers are told, "rels://host:port"; its host is
	// what the certificate must be valid for. Without "rels://" no certificate
	// is reported as valid.
	ExposedAddress string
	// Dial connects to the listener; nil means TCP. A relay's own connections
	// need not count among those of strangers.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// RootCAs are what clients trust; nil means the roots of the system.
	RootCAs *x509.CertPool
}

// NewProbe returns the probe behind /health: it dials the listener of this very
// pod as a peer would, presents a token that must be refused (the one that
// NetBird's probe sends, for the peer id of "healthcheck-agent"), and expects the
// connection to be closed without an answer. So it tests the TLS handshake, the upgrade
// and the check of the token. A dial of the public address would test the load
// balancer, DNS and other pods instead.
//
// A certificate that clients would not trust is reported and does not make the relay
// unhealthy: a restart of the pod would not repair it.
func NewProbe(cfg ProbeConfig) Probe {
	return func(ctx context.Context) (bool, error) {
		p := &probe{cfg: cfg}
		if err := p.run(ctx); err != nil {
			return false, fmt.Errorf("probe %s: %w", cfg.ListenAddress, err)
		}
		return p.certificateValid.Load(), nil
	}
}

// probeAuth is an Auth message: version, type, magic, the id of
// "healthcheck-agent", and a token whose signature is all zeros. See
// docs/protocol.md.
var probeAuth = func() []byte {
	id := sha256.Sum256([]byte("healthcheck-agent"))
	return []byte("\x01\x06\x21\x12\xa4\x42" +
		"sha-" + string(id[:]) +
		"\x01" + strings.Repeat("\x00", 32) + "healthcheck")
}()

// probe is one run of a Probe.
type probe struct {
	cfg              ProbeConfig
	certificateValid atomic.Bool
}

func (p *probe) run(ctx context.Context) error {
	transport := &http.Transport{
		DialContext:       p.dial,
		DisableKeepAlives: true,
		TLSClientConfig:   p.tlsConfig(),
	}
	defer transport.CloseIdleConnections()
	scheme := "ws"
	if p.cfg.TLS {
		scheme = "wss"
	}
	conn, _, err := websocket.Dial(ctx, scheme+"://"+p.host()+"/relay", &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport: transport,
			// A relay never redirects, so a redirect is a failure.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.MessageBinary, probeAuth); err != nil {
		return fmt.Errorf("present the token: %w", err)
	}
	_, _, err = conn.Read(ctx)
	switch {
	case err == nil:
		return errors.New("a token that must be refused was answered")
	case ctx.Err() != nil:
		return fmt.Errorf("wait for the refusal of the token: %w", ctx.Err())
	}
	return nil // closed, as it should be
}

// exposedHost is the host that peers dial, "" when there is none.
func (p *probe) exposedHost() string {
	address := p.cfg.ExposedAddress
	if _, after, ok := strings.Cut(address, "://"); ok {
		address = after
	}
	address, _, _ = strings.Cut(address, "/")
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return strings.Trim(address, "[]")
}

// host is the Host of the request.
func (p *probe) host() string {
	host := p.exposedHost()
	switch {
	case host == "":
		return "localhost"
	case strings.Contains(host, ":"):
		return "[" + host + "]"
	}
	return host
}

// dial connects to the listener, whatever the URL says.
func (p *probe) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	dial := p.cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	var errs []error
	for _, address := range localAddresses(p.cfg.ListenAddress) {
		conn, err := dial(ctx, network, address)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// localAddresses returns what to dial, in order, to reach a listen address.
func localAddresses(listen string) []string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return []string{listen} // the dialer reports what is wrong
	}
	const v4, v6 = "127.0.0.1", "::1"
	ip := net.ParseIP(host)
	switch {
	case host != "" && !ip.IsUnspecified():
		return []string{listen}
	case ip != nil && ip.To4() == nil:
		return []string{net.JoinHostPort(v6, port), net.JoinHostPort(v4, port)}
	}
	return []string{net.JoinHostPort(v4, port), net.JoinHostPort(v6, port)}
}

// tlsConfig completes every handshake, and records whether a client would have.
func (p *probe) tlsConfig() *tls.Config {
	host := p.exposedHost()
	return &tls.Config{
		ServerName:         host,
		InsecureSkipVerify: true, // VerifyConnection checks, and nothing secret is sent
		VerifyConnection: func(state tls.ConnectionState) error {
			if !strings.HasPrefix(p.cfg.ExposedAddress, "rels://") || host == "" {
				return nil
			}
			intermediates := x509.NewCertPool()
			for _, cert := range state.PeerCertificates[1:] {
				intermediates.AddCert(cert)
			}
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{
				DNSName:       host,
				Roots:         p.cfg.RootCAs,
				Intermediates: intermediates,
			})
			p.certificateValid.Store(err == nil)
			return nil
		},
	}
}

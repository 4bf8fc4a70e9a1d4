package handshake

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/netbatch"
)

// DefaultTimeout is how long a handshake may take, including TLS.
const DefaultTimeout = 3 * time.Second

// Role is a pod's side of a connection.
type Role byte

// The roles.
const (
	Dialer Role = iota
	Acceptor
)

func (r Role) other() Role { return Dialer + Acceptor - r }

// String returns the role as one word.
func (r Role) String() string {
	if r == Dialer {
		return "dialer"
	}
	return "acceptor"
}

// Config is what a pod says about itself.
type Config struct {
	Address     string // announce address, host:port; see [wire.Hello]
	Incarnation uint64 // random number of this process
	Keys        *KeyRing
	Build       string // version of the program, for people

	// Timeout bounds a handshake; 0 is [DefaultTimeout]. A context that ends
	// earlier wins.
	Timeout time.Duration

	// Clock returns the cluster clock, µs; nil means 0.
	Clock func() uint64
	// Have returns the number of the session in use with a pod, or 0; nil means 0. It
	// is called while PROOF is written.
	Have func(wire.PodID) uint64
	// Instance is the address that this pod announces to peers; empty: not compared.
	// A pod with another Instance is refused, unless that is one of Former (at most
	// [wire.MaxFormer]) or this Instance is among the other's Former.
	Instance string
	Former   []string
	// Tokens returns the secrets of peer tokens; pods without a common one refuse each
	// other. If it is nil or returns none, or if there is no cluster secret, they are
	// not compared.
	Tokens func() *TokenSecrets

	// MinVersion and MaxVersion are for tests of mixed versions. 0 is what
	// package wire speaks.
	MinVersion, MaxVersion byte

	Capabilities uint32 // see [wire.Hello]
}

// Pod is this pod's side of all its handshakes. It is safe for concurrent use.
type Pod struct {
	config Config
	id     wire.PodID
	tls    *tls.Config // of either role
}

// New returns this pod's side. An error means that the config does not fit into a
// HELLO.
func New(c Config) (*Pod, error) {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.MinVersion == 0 {
		c.MinVersion = wire.MinVersion
	}
	if c.MaxVersion == 0 {
		c.MaxVersion = wire.Version
	}
	p := &Pod{config: c, id: wire.NewPodID(c.Address, c.Incarnation)}
	if n := len(c.Former); n > wire.MaxFormer {
		return nil, fmt.Errorf("%d former instance addresses: want at most %d", n, wire.MaxFormer)
	}
	if _, err := wire.AppendHello(nil, p.hello(nil)); err != nil {
		return nil, fmt.Errorf("describe this pod to others: %w", err)
	}
	var err error
	if p.tls, err = throwAway(); err != nil {
		return nil, fmt.Errorf("make a certificate for links: %w", err)
	}
	return p, nil
}

// ID returns the identity of this pod.
func (p *Pod) ID() wire.PodID { return p.id }

// Conn is a connection whose other end has proved itself.
type Conn struct {
	// TLS runs over Below, which runs over the given connection. The handshake has
	// read no byte of what follows it from TLS, but TLS itself may have buffered such
	// bytes: read from it until it has none before waiting for the socket. It has no
	// deadline.
	TLS   *tls.Conn
	Below *netbatch.Below

	Role    Role
	Version byte
	Signed  bool             // false only if neither side has a secret: then nothing was proved
	Key     wire.Fingerprint // of the secret that was proved, if Signed

	Pod   wire.PodID  // at the other end
	Hello *wire.Hello // the other side's
	Ahead int64       // the other side's clock minus this side's when its HELLO came, in µs
	Have  uint64      // session that the other side has in use with this pod, 0: none

	// OtherInstance: the sides announce different addresses to their peers, and one
	// of them is a former address of the other side.
	OtherInstance bool

	// The fingerprints of the secrets of peer tokens in the proofs. If they [Differ]
	// the link works, but some clients will be refused. See [Conn.Tokens].
	MyTokens, TheirTokens wire.Fingerprint

	own *Pod
	key *key // that was proved; nil: none
}

// Tokens returns the fingerprint of the secrets of peer tokens that a proof on c would
// have now.
func (c *Conn) Tokens() wire.Fingerprint {
	all, _ := c.own.tokens(c.key)
	return all
}

// Dial does the dialer's side on conn. On failure, at the latest after the timeout of
// the config or when ctx ends, it closes conn and returns an [*Error]. It sends
// nothing about this pod's peers or secrets before the acceptor has proved itself.
func (p *Pod) Dial(ctx context.Context, conn net.Conn) (*Conn, error) {
	return p.run(ctx, conn, Dialer)
}

// Accept does the acceptor's side, like [Pod.Dial].
func (p *Pod) Accept(ctx context.Context, conn net.Conn) (*Conn, error) {
	return p.run(ctx, conn, Acceptor)
}

func (p *Pod) run(ctx context.Context, conn net.Conn, role Role) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	// A deadline in the past ends every wait on conn.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })

	s := &shake{pod: p, role: role, below: netbatch.NewBelow(conn), keys: p.config.Keys.snapshot()}
	c, err := s.run(ctx)
	if !stop() && err == nil {
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		_ = conn.Close() // it has failed already
		e := failed(ctx, err)
		e.Hello = s.theirs
		e.Silent = e.Reason == Closed && ctx.Err() == nil && !s.below.Heard()
		return nil, e
	}
	return c, nil
}

// hello returns this pod's HELLO without the nonce.
func (p *Pod) hello(keys []key) *wire.Hello {
	h := &wire.Hello{
		Min: p.config.MinVersion,
		Max: p.config.MaxVersion,

		Capabilities: p.config.Capabilities,

		Incarnation: p.config.Incarnation,
		Address:     p.config.Address,
		Build:       p.config.Build,
	}
	if p.config.Clock != nil {
		h.Clock = p.config.Clock()
	}
	if p.config.Instance != "" {
		h.Instance = wire.InstanceFingerprint(p.config.Instance)
	}
	var former []wire.Fingerprint
	for _, address := range p.config.Former {
		former = append(former, wire.InstanceFingerprint(address))
	}
	h.SetFormer(former)
	for _, k := range keys {
		h.Keys = append(h.Keys, k.id)
	}
	return h
}

// tokens returns the fingerprint of all secrets of peer tokens together, and that of
// each; zero if there are none.
func (p *Pod) tokens(k *key) (all wire.Fingerprint, each []wire.Fingerprint) {
	if k == nil || p.config.Tokens == nil {
		return all, nil
	}
	return p.config.Tokens().under(k)
}

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

// DefaultTimeout is how long a handshake may take, TLS and all.
const DefaultTimeout = 3 * time.Second

// Role is the side of a connection that a pod has.
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

// Config is what a pod says of itself.
type Config struct {
	Address     string // announce address, host:port; see [wire.Hello]
	Incarnation uint64 // random number of this process
	Keys        *KeyRing
	Build       string // version of the program, for people

	// Timeout bounds a handshake; 0 is [DefaultTimeout]. A context that ends
	// earlier wins.
	Timeout time.Duration

	// Clock returns the cluster clock, µs; nil says 0.
	Clock func() uint64
	// Have returns the number of the session in use with a pod, or 0; nil says 0.
	// It is called while PROOF is written.
	Have func(wire.PodID) uint64
	// Instance is the address that peers are told; empty: not compared. Pods with
	// another one are refused, but for those that have one of Former, at most
	// [wire.MaxFormer], and those that have this one among theirs.
	Instance string
	Former   []string
	// Tokens returns the secrets of peer tokens; pods that have none in common
	// refuse each other. Nil, none returned, or no secret of the cluster: not
	// compared.
	Tokens func() *TokenSecrets

	// MinVersion and MaxVersion are for tests of mixed versions. 0 is what
	// package wire speaks.
	MinVersion, MaxVersion byte
}

// Pod is this pod's side of all its handshakes. It is safe for concurrent use.
type Pod struct {
	config Config
	id     wire.PodID
	tls    *tls.Config // of either role
}

// New returns this pod's side. An error means that the config cannot be put into
// a HELLO.
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
	// TLS runs over Below, which runs over the connection given. Nothing has
	// been read from TLS that belongs to what follows the handshake, but TLS
	// itself may hold such bytes: read from it until it has none before waiting
	// for the socket. No deadline is left on it.
	TLS   *tls.Conn
	Below *netbatch.Below

	Role    Role
	Version byte
	Signed  bool             // false only where neither side has a secret: then nothing was proved
	Key     wire.Fingerprint // of the secret that was proved, where Signed

	Pod   wire.PodID  // at the other end
	Hello *wire.Hello // the other side's
	Ahead int64       // of this side's clock the other's was so many µs when its HELLO came
	Have  uint64      // session that the other side has in use with this pod, 0: none

	// OtherInstance: the sides tell their peers different addresses, one of them
	// being a former one to the other side.
	OtherInstance bool

	// What the proofs said of the secrets of peer tokens. Where they [Differ]
	// links work as well, but clients will be turned away. See [Conn.Tokens].
	MyTokens, TheirTokens wire.Fingerprint

	own *Pod
	key *key // that was proved; nil: none
}

// Tokens is what a proof on c would say now of the secrets of peer tokens.
func (c *Conn) Tokens() wire.Fingerprint {
	all, _ := c.own.tokens(c.key)
	return all
}

// Dial does the dialer's side on conn. It returns an [*Error] and closes conn
// when that fails, in the time of the config at most or when ctx ends. Nothing
// tells of this pod's peers or secrets before the acceptor has proved itself.
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
	// Past deadlines end whatever conn is waiting for.
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

// hello returns what this pod says of itself, but for the nonce.
func (p *Pod) hello(keys []key) *wire.Hello {
	h := &wire.Hello{
		Min:         p.config.MinVersion,
		Max:         p.config.MaxVersion,
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

// tokens returns the fingerprints of the secrets of peer tokens, together and of
// each; zero for none.
func (p *Pod) tokens(k *key) (all wire.Fingerprint, each []wire.Fingerprint) {
	if k == nil || p.config.Tokens == nil {
		return all, nil
	}
	return p.config.Tokens().under(k)
}

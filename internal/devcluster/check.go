package devcluster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"net"
	"slices"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
)

// What a check sends. A burst stays well below the queues of relay and client,
// so that nothing may be dropped.
const (
	burst      = 32  // messages each way
	roundTrips = 500 // and a tenth before, unmeasured
	pingSize   = 64  // bytes
)

// sizes are those of the messages of a burst, in turn, in bytes: small, as a
// tunnel has them, and the largest there is.
var sizes = []int{100, 1200, messages.MaxPayloadSize}

// The peers of a check.
const (
	peerA = "alice"
	peerB = "bob"
	peerC = "carol"
)

// A Step is one thing a check has done.
type Step interface{ step() }

// Connected says that a peer is connected.
type Connected struct {
	Name string
	ID   messages.PeerID
	Took time.Duration // from dialling to the relay's answer
	Pod  string        // it landed on; "" where there is only one
}

// Exchanged says that all messages of one direction have arrived.
type Exchanged struct {
	From, To string
	Messages int
	Bytes    int // of the payloads
	// Sent is the SHA-256 of all payloads one after another as the sender
	// saw them, Received as the receiver did.
	Sent, Received [sha256.Size]byte
}

// Measured says how long a message and its answer take.
type Measured struct {
	RoundTrips int
	Bytes      int // of each payload
	P50, P99   time.Duration
}

func (Connected) step() {}
func (Exchanged) step() {}
func (Measured) step()  {}

// ErrDiffers means that not everything arrived as it was sent.
var ErrDiffers = errors.New("devcluster: what was received differs from what was sent")

// Check connects two peers, sends random messages both ways, compares what was
// sent with what was received, and measures the round trip. It calls report
// after each step, from its own goroutine. It returns when both peers are gone
// again; ctx bounds all of it.
func (c *Cluster) Check(ctx context.Context, report func(Step)) error {
	a, err := c.connect(ctx, peerA, report)
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := c.connect(ctx, peerB, report)
	if err != nil {
		return err
	}
	defer b.Close()
	return check(ctx, a, b, report)
}

// check has two peers exchange messages and measures the round trip between
// them.
func check(ctx context.Context, a, b *client.Client, report func(Step)) error {
	// Each opens its end; either is open once the other peer is online.
	toB, err := open(ctx, a, b.PeerID())
	if err != nil {
		return err
	}
	toA, err := open(ctx, b, a.PeerID())
	if err != nil {
		return err
	}
	for _, way := range []struct {
		from, to string
		out, in  net.Conn
	}{
		{peerA, peerB, toB, toA},
		{peerB, peerA, toA, toB},
	} {
		e, err := exchange(way.out, way.in)
		if err != nil {
			return fmt.Errorf("send from %s to %s: %w", way.from, way.to, err)
		}
		e.From, e.To = way.from, way.to
		report(e)
		if e.Sent != e.Received {
			return fmt.Errorf("send from %s to %s: %w", way.from, way.to, ErrDiffers)
		}
	}
	m, err := measure(toB, toA)
	if err != nil {
		return fmt.Errorf("measure the round trip: %w", err)
	}
	report(m)
	return nil
}

func (c *Cluster) connect(ctx context.Context, name string, report func(Step)) (*client.Client, error) {
	start := time.Now()
	peer, err := c.dial(ctx, name)
	if err != nil {
		return nil, err
	}
	report(Connected{Name: name, ID: peer.PeerID(), Took: time.Since(start)})
	return peer, nil
}

// open opens a Conn that fails when ctx has a deadline and that has passed.
func open(ctx context.Context, from *client.Client, to messages.PeerID) (net.Conn, error) {
	conn, err := from.OpenConn(ctx, to)
	if err != nil {
		return nil, err
	}
	if deadline, ok := ctx.Deadline(); ok {
		err = conn.SetDeadline(deadline)
	}
	return conn, err
}

// exchange sends a burst of random messages from one end to the other.
func exchange(out, in net.Conn) (Exchanged, error) {
	e := Exchanged{Messages: burst}
	sent, received := sha256.New(), sha256.New()
	for i := range burst {
		payload := make([]byte, sizes[i%len(sizes)])
		_, _ = rand.Read(payload) // never fails
		sent.Write(payload)
		e.Bytes += len(payload)
		if _, err := out.Write(payload); err != nil {
			return e, err
		}
	}
	buf := make([]byte, messages.MaxPayloadSize)
	for range burst {
		n, err := in.Read(buf)
		if err != nil {
			return e, err
		}
		received.Write(buf[:n])
	}
	e.Sent, e.Received = sum(sent), sum(received)
	return e, nil
}

func sum(h hash.Hash) (s [sha256.Size]byte) {
	h.Sum(s[:0])
	return s
}

// measure sends messages from a to b and back, one at a time.
func measure(a, b net.Conn) (Measured, error) {
	echoed := make(chan error, 1)
	const warmUp = roundTrips / 10
	go func() { echoed <- echo(b, roundTrips+warmUp) }()

	took := make([]time.Duration, 0, roundTrips)
	payload, buf := make([]byte, pingSize), make([]byte, pingSize)
	err := func() error {
		for i := range roundTrips + warmUp {
			start := time.Now()
			if _, err := a.Write(payload); err != nil {
				return err
			}
			if _, err := a.Read(buf); err != nil {
				return err
			}
			if i >= warmUp {
				took = append(took, time.Since(start))
			}
		}
		return nil
	}()
	if err != nil {
		_ = b.Close() // ends the echo
	}
	if err := errors.Join(err, <-echoed); err != nil {
		return Measured{}, err
	}
	slices.Sort(took)
	return Measured{RoundTrips: roundTrips, Bytes: pingSize, P50: took[roundTrips/2], P99: took[roundTrips*99/100]}, nil
}

// echo answers n messages with themselves.
func echo(conn net.Conn, n int) error {
	buf := make([]byte, pingSize)
	for range n {
		size, err := conn.Read(buf)
		if err != nil {
			return err
		}
		if _, err := conn.Write(buf[:size]); err != nil {
			return err
		}
	}
	return nil
}

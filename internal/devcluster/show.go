package devcluster

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
)

const (
	// burst messages are sent each way. They stay well below the queues of relay
	// and client, so that none may be dropped.
	burst      = 32
	roundTrips = 500 // and a tenth before, unmeasured
	pingSize   = 64  // bytes
	hashShown  = 16  // bytes of a hash; all of it is compared

	beat       = 5 * time.Millisecond   // between two messages while a pod is killed
	patience   = 2 * time.Second        // for the answer to a message
	impatience = 100 * time.Millisecond // for one to a peer that may have gone
)

// sizes are those of the messages of a burst, in turn, in bytes: small, as a
// tunnel has them, and the largest there is.
var sizes = []int{100, 1200, messages.MaxPayloadSize}

// View says how to show a cluster.
type View struct {
	Out     io.Writer
	Colour  bool
	Program string // the path of relay, for what is said to type
	Once    bool   // leave the killed pod dead, and say nothing of more peers
}

// show is a view while it is shown. After the first error it does nothing more.
type show struct {
	View
	c   *Cluster
	ctx context.Context // closes all peers when it ends
	err error
}

// Show lets two peers exchange messages, kills a pod where there are several, and
// starts it again. It writes what it does and returns an error unless all of it was
// right.
func (c *Cluster) Show(ctx context.Context, v View) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &show{View: v, c: c, ctx: ctx}
	first, second, last := c.pods[0], c.pods[min(1, len(c.pods)-1)], c.pods[len(c.pods)-1]
	if first == last {
		s.row("relay", "%s", c.URL())
	} else {
		s.row("relay", "%s, whichever pod it leads to", c.URL())
		for _, p := range c.pods {
			s.row(p.name, "%s", url(p.peers))
		}
	}
	alice, bob := s.connect("alice", first, true), s.connect("bob", second, true)
	s.exchange("alice → bob", "bob → alice", alice, bob)
	if first != last && s.err == nil {
		_ = bob.Close() // returns nil
		s.kill(last, alice)
	}
	if v.Once {
		s.text("%s", s.paint(green, "all messages arrived as they were sent"))
		return s.err
	}
	urlA, urlB, name := c.URL(), c.URL(), filepath.Base(v.Program)
	if first != last {
		urlA, urlB = url(first.peers), url(last.peers)
		s.restart(last)
	}
	s.text("\nMore peers, each in a terminal of its own. First, in each:")
	s.text("  export PATH=%s:$PATH\n  export RELAY_AUTH_SECRET=%s", filepath.Dir(v.Program), c.secret)
	s.text("and then one of\n  %s nc carol --to dave --url %s\n  %s nc dave --to carol --url %s", name, urlA, name, urlB)
	if first != last {
		s.text("\nWhat one pod knows of the others:\n  %s cluster status --ops-address %s", name, c.operations.Addresses()["operations"])
	}
	s.text("\nCtrl-C ends it.")
	return s.err
}

// kill kills a pod that bob has moved to, while alice talks with him and with
// carol, whose pod lives. He must be back, on another pod, and no message with
// carol be lost.
func (s *show) kill(victim *pod, alice *client.Client) {
	at := slices.Index(s.c.pods, victim)
	if at != 1 {
		s.row("bob", "moves to %s, which is about to be killed", victim.name)
	}
	bob, carol := s.connect("bob", victim, false), s.connect("carol", s.c.pods[at-1], false)
	toCarol := s.open(alice, carol)
	if s.err != nil {
		return
	}
	go echo(bob.PacketConn())
	go echo(carol.PacketConn())
	s.answered(alice, bob)
	talking, stop := context.WithCancel(s.ctx)
	talked := make(chan talk)
	go func() { talked <- talkOn(talking, toCarol) }()
	s.row(victim.name, "killed, with bob on it")
	killed := time.Now()
	victim.kill()
	s.answered(alice, bob)
	s.row("bob", "answers again after %v, on %s", time.Since(killed).Round(time.Millisecond), s.podOf(bob))
	stop()
	with := <-talked
	lost := with.sent - with.answered
	s.row("alice ⇄ carol", "%d messages and answers, longest gap %v  %s", with.sent, with.gap.Round(time.Millisecond),
		s.verdict(lost == 0, "none lost", fmt.Sprintf("%d LOST", lost)))
	if lost != 0 {
		s.fail(fmt.Errorf("lost %d of %d messages between alice and carol, whose pods live", lost, with.sent))
	}
}

func (s *show) restart(p *pod) {
	started := time.Now()
	if s.err == nil {
		s.fail(p.listen(s.ctx))
	}
	if s.err == nil {
		s.fail(s.c.start(s.ctx, p))
	}
	s.row(p.name, "started again, ready after %v", time.Since(started).Round(time.Millisecond))
}

// connect connects a peer to a pod. Once that is dead the peer connects by itself
// to any other.
func (s *show) connect(name string, to *pod, shown bool) *client.Client {
	start := time.Now()
	c, err := client.Dial(s.ctx, client.Config{
		URL: s.c.URL(), Name: name, Token: client.SecretToken(s.c.secret, time.Minute),
		DialContext: func(ctx context.Context, network, front string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, to.peers.Addr().String())
			if err != nil {
				conn, err = new(net.Dialer).DialContext(ctx, network, front)
			}
			return conn, err
		},
	})
	if err != nil {
		s.fail(fmt.Errorf("connect %s to %s: %w", name, to.name, err))
		return nil
	}
	context.AfterFunc(s.ctx, func() { _ = c.Close() }) // also ends what waits for a message
	if on := ""; shown {
		if len(s.c.pods) > 1 {
			on = " to " + to.name
		}
		s.row(name, "connected%s in %v as %s", on, time.Since(start).Round(10*time.Microsecond), c.PeerID().LogValue())
	}
	return c
}

// podOf returns the name of the pod that has a peer.
func (s *show) podOf(c *client.Client) string {
	for _, p := range s.c.pods {
		if _, ok := p.server.Store().Peer(c.PeerID()); ok {
			return p.name
		}
	}
	return "no pod"
}

// open opens a conn, once the other peer is online.
func (s *show) open(from, to *client.Client) net.Conn {
	if s.err != nil {
		return nil
	}
	conn, err := from.OpenConn(s.ctx, to.PeerID())
	s.fail(err)
	return conn
}

// exchange sends random messages both ways, compares what was sent with what was
// received, and measures the round trip.
func (s *show) exchange(there, back string, a, b *client.Client) {
	toB, toA := s.open(a, b), s.open(b, a)
	s.send(there, toB, toA)
	s.send(back, toA, toB)
	if s.err != nil {
		return
	}
	defer toB.Close()
	defer toA.Close()
	go func() { _, _ = io.Copy(toA, toA) }() // answers until it is closed
	var took []time.Duration
	for range roundTrips + roundTrips/10 {
		t, err := ping(toB, patience)
		s.fail(err)
		took = append(took, t)
	}
	took = took[roundTrips/10:]
	slices.Sort(took)
	p50, p99 := took[roundTrips/2].Round(time.Microsecond), took[roundTrips*99/100].Round(time.Microsecond)
	s.row("round trip", "p50 %v, p99 %v, %d of %d bytes", p50, p99, roundTrips, pingSize)
}

// send sends a burst of random messages.
func (s *show) send(way string, out io.Writer, in io.Reader) {
	sent, received := sha256.New(), sha256.New()
	total, buf := 0, make([]byte, messages.MaxPayloadSize)
	for i := 0; i < burst && s.err == nil; i++ {
		payload := buf[:sizes[i%len(sizes)]]
		_, _ = rand.Read(payload) // never fails
		sent.Write(payload)
		total += len(payload)
		_, err := out.Write(payload)
		s.fail(err)
	}
	for i := 0; i < burst && s.err == nil; i++ {
		n, err := in.Read(buf)
		s.fail(err)
		received.Write(buf[:n])
	}
	was, is := sent.Sum(nil), received.Sum(nil)
	equal := bytes.Equal(was, is)
	s.row(way, "%d messages, %d random bytes", burst, total)
	s.row("", "sent      sha256 %x…", was[:hashShown])
	s.row("", "received  sha256 %x…  %s", is[:hashShown], s.verdict(equal, "equal", "DIFFERENT"))
	if !equal {
		s.fail(fmt.Errorf("%s: what was received differs from what was sent", way))
	}
}

// ping sends a message and waits for its answer.
func ping(conn net.Conn, patience time.Duration) (took time.Duration, err error) {
	start := time.Now()
	sent, buf := make([]byte, pingSize), make([]byte, pingSize)
	binary.BigEndian.PutUint64(sent, uint64(start.UnixNano()))
	if _, err := conn.Write(sent); err != nil {
		return 0, err
	}
	_ = conn.SetReadDeadline(start.Add(patience)) // Read returns the same error
	for err == nil && !bytes.Equal(buf, sent) {   // earlier ones may be answered first
		_, err = conn.Read(buf)
	}
	return time.Since(start), err
}

// echo answers all messages with themselves until conn is closed.
func echo(conn net.PacketConn) {
	buf := make([]byte, pingSize)
	for n, from, err := conn.ReadFrom(buf); err == nil; n, from, err = conn.ReadFrom(buf) {
		_, _ = conn.WriteTo(buf[:n], from) // best effort
	}
}

// answered sends messages to a peer, which may go and come back, until it answers.
func (s *show) answered(from, to *client.Client) {
	for err := error(client.ErrPeerOffline); err != nil && s.err == nil; {
		conn := s.open(from, to)
		for err = os.ErrDeadlineExceeded; s.err == nil && errors.Is(err, os.ErrDeadlineExceeded); {
			_, err = ping(conn, impatience)
		}
		if conn != nil {
			_ = conn.Close() // returns nil
		}
	}
}

// talk is what became of messages to a peer.
type talk struct {
	sent, answered int
	gap            time.Duration // the longest between two answers
}

// talkOn sends messages and waits for the answer to each, until ctx ends.
func talkOn(ctx context.Context, conn net.Conn) (t talk) {
	for last := time.Now(); ctx.Err() == nil; time.Sleep(beat) {
		t.sent++
		if _, err := ping(conn, patience); err == nil {
			t.answered++
			t.gap, last = max(t.gap, time.Since(last)), time.Now()
		}
	}
	return t
}

// The colours of a terminal.
const (
	bold  = "\x1b[1m"
	green = "\x1b[32m"
	red   = "\x1b[31m"
	reset = "\x1b[0m"
)

func (v View) paint(colour, text string) string {
	if !v.Colour {
		return text
	}
	return colour + text + reset
}

func (v View) verdict(good bool, ifGood, ifBad string) string {
	if good {
		return v.paint(green, ifGood)
	}
	return v.paint(red, ifBad)
}

// row writes a line whose first column is name.
func (s *show) row(name, format string, args ...any) {
	s.text("%s %s", s.paint(bold, fmt.Sprintf("%-14s", name)), fmt.Sprintf(format, args...))
}

func (s *show) text(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.Out, format+"\n", args...)
	}
}

// fail keeps the first error. One that follows the end of the show says that.
func (s *show) fail(err error) {
	if err != nil && s.ctx.Err() != nil {
		err = context.Cause(s.ctx)
	}
	s.err = cmp.Or(s.err, err)
}

package devcluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
)

const (
	// beat is the time between two messages to each peer while a pod is killed.
	beat = 5 * time.Millisecond
	// settle bounds the wait for what is still under way afterwards.
	settle = 2 * time.Second
)

// Moved says that a peer of ours has connected to another pod.
type Moved struct{ Name, Pod string }

// Killed says that a pod was ended without warning.
type Killed struct {
	Pod   string
	Peers []string // of ours that were on it
}

// Recovered says that a peer of a killed pod exchanges messages again.
type Recovered struct {
	Name, Pod string        // the peer and where it is now
	Took      time.Duration // from the kill to the first answer to a message sent after it
}

// Undisturbed says what became of the messages between two peers on other pods
// meanwhile.
type Undisturbed struct {
	From, To       string
	Sent, Answered int
	LongestGap     time.Duration // between two answers
}

// Restarted says that a pod is back and linked.
type Restarted struct {
	Pod  string
	Took time.Duration // from its start until it was ready
}

func (Moved) step()       {}
func (Killed) step()      {}
func (Recovered) step()   {}
func (Undisturbed) step() {}
func (Restarted) step()   {}

// ErrLost means that messages between peers whose pods lived did not arrive.
var ErrLost = errors.New("devcluster: messages between pods that live were lost")

// Check is [Cluster.Check] with the two peers on different pods.
func (p *Pods) Check(ctx context.Context, report func(Step)) error {
	var peers [2]*client.Client
	for i, name := range []string{peerA, peerB} {
		started := time.Now()
		peer, err := p.connect(ctx, name, p.pods[i])
		if err != nil {
			return err
		}
		defer peer.Close()
		report(Connected{Name: name, ID: peer.PeerID(), Took: time.Since(started), Pod: peer.pod()})
		peers[i] = peer.Client
	}
	return check(ctx, peers[0], peers[1], report)
}

// KillOne has a peer exchange messages with two others, kills the pod of one of
// these, and waits until that one, which connects to another pod by itself,
// answers again. Meanwhile nothing may be lost between the other two. The pod
// stays dead; see [Pods.Restart].
func (p *Pods) KillOne(ctx context.Context, report func(Step)) error {
	victim := p.victim()
	var peers [3]*peer
	for i, to := range []struct {
		name string
		pod  *pod
	}{{peerA, p.pods[0]}, {peerB, victim}, {peerC, p.pods[len(p.pods)-2]}} {
		var err error
		if peers[i], err = p.connect(ctx, to.name, to.pod); err != nil {
			return err
		}
		defer peers[i].Close()
	}
	a, b, c := peers[0], peers[1], peers[2]
	if victim != p.pods[1] { // where Check has it
		report(Moved{Name: peerB, Pod: victim.name})
	}

	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, peer := range []*peer{b, c} {
		conn := peer.PacketConn()
		running.Go(func() { echoPackets(conn) })
		defer conn.Close()
	}
	conn := a.PacketConn()
	defer conn.Close()
	talk := newTalk(conn, b.PeerID(), c.PeerID())
	running.Go(func() { talk.send(ctx) })
	running.Go(talk.receive)

	if err := talk.answered(ctx, b.PeerID(), c.PeerID()); err != nil {
		return fmt.Errorf("exchange messages before a pod is killed: %w", err)
	}
	report(Killed{Pod: victim.name, Peers: []string{peerB}})
	killed := time.Now()
	talk.forget()
	victim.kill()
	if err := talk.answered(ctx, b.PeerID()); err != nil {
		return fmt.Errorf("wait until %s answers again: %w", peerB, err)
	}
	report(Recovered{Name: peerB, Pod: b.pod(), Took: time.Since(killed)})

	cancel() // nothing more is sent
	u := talk.settled(c.PeerID())
	u.From, u.To = peerA, peerC
	report(u)
	if u.Answered != u.Sent {
		return fmt.Errorf("%d of %d between %s and %s: %w", u.Sent-u.Answered, u.Sent, u.From, u.To, ErrLost)
	}
	return nil
}

// echoPackets answers all messages with themselves until conn is closed.
func echoPackets(conn net.PacketConn) {
	buf := make([]byte, messages.MaxPayloadSize)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buf[:n], from) // lost or not: it is best effort
	}
}

// talk sends numbered messages to some peers and sees which they answer.
type talk struct {
	// Set by newTalk, never changed.
	conn  net.PacketConn
	peers []messages.PeerID

	mu      sync.Mutex // guards what follows
	next    uint64     // number of the next message
	since   uint64     // answers to earlier ones are old
	with    map[messages.PeerID]*exchangeCount
	changed chan struct{} // closed at each answer, and at the end of send
	over    bool          // nothing more is sent
}

// exchangeCount is what was exchanged with one peer.
type exchangeCount struct {
	sent, answered int
	fresh          bool // an answer to a message since forget has come
	last           time.Time
	longest        time.Duration
}

func newTalk(conn net.PacketConn, peers ...messages.PeerID) *talk {
	t := &talk{conn: conn, peers: peers, with: make(map[messages.PeerID]*exchangeCount), changed: make(chan struct{})}
	for _, id := range peers {
		t.with[id] = new(exchangeCount)
	}
	return t
}

// send sends to each peer, beat after beat, until ctx ends.
func (t *talk) send(ctx context.Context) {
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			t.mu.Lock()
			t.over = true
			t.changeLocked()
			t.mu.Unlock()
			return
		case <-tick.C:
		}
		t.mu.Lock()
		number := t.next
		t.next++
		t.mu.Unlock()
		for _, id := range t.peers {
			if _, err := t.conn.WriteTo(binary.BigEndian.AppendUint64(nil, number), client.Addr(id)); err == nil {
				t.mu.Lock()
				t.with[id].sent++
				t.mu.Unlock()
			}
		}
	}
}

// receive takes answers until the conn is closed.
func (t *talk) receive() {
	buf := make([]byte, messages.MaxPayloadSize)
	for {
		n, from, err := t.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		id, ok := from.(client.Addr)
		if !ok || n != 8 {
			continue
		}
		t.mu.Lock()
		if c := t.with[messages.PeerID(id)]; c != nil {
			now := time.Now()
			if !c.last.IsZero() {
				c.longest = max(c.longest, now.Sub(c.last))
			}
			c.last = now
			c.answered++
			c.fresh = c.fresh || binary.BigEndian.Uint64(buf) >= t.since
			t.changeLocked()
		}
		t.mu.Unlock()
	}
}

func (t *talk) changeLocked() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// forget has answered wait for answers to messages that are yet to be sent.
func (t *talk) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.since = t.next
	for _, c := range t.with {
		c.fresh = false
	}
}

// wait waits until done, which is called with the lock held, or ctx ends.
func (t *talk) wait(ctx context.Context, done func() bool) error {
	for {
		t.mu.Lock()
		ok, changed := done(), t.changed
		t.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// answered waits until all ids have answered since the last forget.
func (t *talk) answered(ctx context.Context, ids ...messages.PeerID) error {
	return t.wait(ctx, func() bool {
		for _, id := range ids {
			if !t.with[id].fresh {
				return false
			}
		}
		return true
	})
}

// settled waits, for a while, until id has answered everything, and returns
// what was exchanged with it.
func (t *talk) settled(id messages.PeerID) Undisturbed {
	ctx, cancel := context.WithTimeout(context.Background(), settle)
	defer cancel()
	// An error means that some answers are missing, which is counted.
	_ = t.wait(ctx, func() bool { return t.over && t.with[id].answered >= t.with[id].sent })
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.with[id]
	return Undisturbed{Sent: c.sent, Answered: c.answered, LongestGap: c.longest}
}

package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// A relay asks a client with GoAway to connect to another of its pods. The client then
// opens a second connection, says Moved as its last word on the first, reads that to its
// end, and only then reads and writes the second: nothing is lost, and nothing overtaken.
// See docs/protocol.md, "Moving", and ADR-0035.

// The header of the upgrade request that says that the client understands GoAway, and
// whether it has a connection beside this one.
const (
	featuresHeader = "Relay-Features"
	featuresFirst  = "goaway"
	featuresMoving = "goaway, moving"
)

const (
	// crowdedTries is how often the client tries to move when it may stay as well.
	crowdedTries = 3
	// After an attempt that led to a pod that takes no one, the next one comes after
	// goAwayPause, then after twice that, up to maxGoAwayPause, all varied by ±50 %.
	goAwayPause    = 100 * time.Millisecond
	maxGoAwayPause = time.Second
	// moveLinger is how long the client waits for the Close of the relay after Moved.
	moveLinger = 2 * time.Second
)

// errMoved means that the client has left a link for another one.
var errMoved = errors.New("moved to another pod")

// goAwayError is the answer of a relay that takes no one, or not this client.
type goAwayError struct{ why messages.Why }

func (e goAwayError) Error() string {
	if e.why == messages.WhyCrowded {
		return "the relay pod has enough peers"
	}
	return "the relay pod is stopping"
}

// goAwayPauses returns a function that waits, longer each time. It reports false when
// ctx ends, and returns early, from the start again, when interrupt is ready.
func goAwayPauses() func(ctx context.Context, interrupt <-chan messages.Why) (why messages.Why, ok bool) {
	pause := goAwayPause
	return func(ctx context.Context, interrupt <-chan messages.Why) (messages.Why, bool) {
		timer := time.NewTimer(pause/2 + rand.N(pause))
		defer timer.Stop()
		pause = min(2*pause, maxGoAwayPause)
		select {
		case <-timer.C:
			return 0, true
		case why := <-interrupt:
			return why, true
		case <-ctx.Done():
			return 0, false
		}
	}
}

// connect returns a link. While pods answer that they take no one, it tries again, for
// DialTimeout in all.
func (c *Client) connect(ctx context.Context) (*link, error) {
	patience, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()
	for wait := goAwayPauses(); ; {
		l, err := c.attempt(ctx, false)
		if _, away := errors.AsType[goAwayError](err); err == nil || !away {
			return l, err
		}
		if _, ok := wait(patience, nil); !ok {
			return nil, err
		}
	}
}

// askToMove notes a GoAway. It does not wait.
func (l *link) askToMove(msg []byte) error {
	why, err := messages.ParseGoAway(msg)
	if err != nil {
		return err
	}
	select {
	case <-l.goAway: // what was asked before
	default:
	}
	l.goAway <- why // the reader alone writes
	l.startMoving()
	return nil
}

// move finds another connection when the relay asks for it, until ctx ends.
func (l *link) move(ctx context.Context) {
	for {
		var why messages.Why
		select {
		case why = <-l.goAway:
		case <-ctx.Done():
			return
		}
		l.c.count.movesAsked.Add(1)
		next, err := l.findNext(ctx, why)
		if next != nil {
			l.next.Store(next)
			signal(l.c.wake)
			return
		}
		l.c.count.movesFailed.Add(1)
		l.log.Info("stays with its relay pod", "reason", err)
		select {
		case <-time.After(maxGoAwayPause): // however often it is asked
		case <-ctx.Done():
			return
		}
	}
}

// findNext returns a connection to another pod.
func (l *link) findNext(ctx context.Context, why messages.Why) (*link, error) {
	l.log.Debug("the relay asks to move to another pod", "reason", goAwayError{why})
	wait := goAwayPauses()
	for tries := 1; ; tries++ {
		next, err := l.c.attempt(ctx, true)
		if err == nil {
			return next, nil
		}
		if why == messages.WhyCrowded && tries == crowdedTries {
			return nil, fmt.Errorf("%d attempts to move: %w", tries, err)
		}
		var interrupt chan messages.Why
		if why == messages.WhyCrowded {
			interrupt = l.goAway // it may be stopping by now
		}
		again, ok := wait(ctx, interrupt)
		if !ok {
			return nil, context.Cause(ctx)
		}
		if again == messages.WhyStopping {
			why, tries, wait = again, 0, goAwayPauses()
		}
	}
}

// sayMoved sends Moved and waits until the relay has closed the connection.
func (l *link) sayMoved(ctx context.Context) error {
	if err := l.write(messages.AppendMoved(nil)); err != nil {
		return err
	}
	if err := l.conn.flush(); err != nil {
		return err
	}
	linger := time.NewTimer(moveLinger)
	defer linger.Stop()
	select {
	case <-l.readDone:
	case <-linger.C:
	case <-ctx.Done():
	}
	return errMoved
}

// serve runs l and the links that it moves to. It returns the last one and why that has
// ended.
func (c *Client) serve(l *link) (*link, error) {
	for {
		err := l.run(c.ctx)
		next := l.next.Load()
		if next == nil {
			return l, err
		}
		if c.ctx.Err() != nil || l.goodbye {
			next.abandon()
			return l, err
		}
		c.mu.Lock()
		c.downSince = time.Now()
		c.useLocked(next)
		c.mu.Unlock()
		c.count.moves.Add(1)
		l = next
	}
}

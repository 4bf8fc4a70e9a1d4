//go:build netns

package netns

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/flow"
)

// Two packets of a hundred are lost everywhere: not one message is.
func TestLoss(t *testing.T) {
	pods := newPods(t, 3)
	ab := flow.Between(t, connect(t, "alice", pods[0]), connect(t, "bob", pods[1]))
	bc := flow.Between(t, connect(t, "carol", pods[2]), connect(t, "dave", pods[1]))
	for _, p := range pods {
		p.drop("numgen random mod 100 < 2")
	}
	flow.Eventually(t, "packets are lost", func() error {
		for _, p := range pods {
			if n := p.dropped(); n < 20 {
				return fmt.Errorf("%s has lost %d", p.address, n)
			}
		}
		return nil
	})
	for _, p := range pods {
		p.drop("")
	}
	report(t, ab, bc)
	for _, p := range pods {
		p.linked(2)
	}
}

// report ends flows and says how they fared.
func report(t *testing.T, flows ...*flow.Flow) {
	t.Helper()
	for _, f := range flows {
		n, gap := f.End(t)
		t.Logf("%d messages, none lost, the longest gap between two %v", n, gap.Round(time.Millisecond))
	}
}

// What goes from one pod to another is lost, one way only. Both close the link,
// the third pod says which two are apart, and traffic with it goes on; when the
// way is open again they link.
func TestCutOneWay(t *testing.T) {
	pods := newPods(t, 3)
	one := connect(t, "one", pods[0])
	ac := flow.Between(t, one, connect(t, "three", pods[2]))
	bc := flow.Between(t, connect(t, "two", pods[1]), connect(t, "another on three", pods[2]))
	pods[1].drop("ip saddr " + pods[0].address)
	pods[0].apart(pods[1])
	pods[1].apart(pods[0])
	pods[2].AwaitFinding(t, pods[0].links+" and "+pods[1].links+" cannot link to each other")
	ac.More(t)
	bc.More(t)
	pods[1].drop("")
	for _, p := range pods {
		p.linked(2)
	}
	ab := flow.Between(t, one, connect(t, "another on two", pods[1]))
	ab.More(t)
	report(t, ac, bc, ab)
}

// A pod is frozen: it answers nothing and closes nothing. The others part with
// it, go on, and take it back when it thaws.
func TestFrozen(t *testing.T) {
	pods := newPods(t, 3)
	one := connect(t, "one", pods[0])
	ac := flow.Between(t, one, connect(t, "three", pods[2]))
	pods[1].Signal(syscall.SIGSTOP)
	pods[0].apart(pods[1])
	pods[2].apart(pods[1])
	ac.More(t)
	pods[1].Signal(syscall.SIGCONT)
	for _, p := range pods {
		p.linked(2)
	}
	ab := flow.Between(t, one, connect(t, "two", pods[1]))
	ab.More(t)
	report(t, ac, ab)
}

// A pod is killed: its peer is on another one soon and is found there, nobody
// else notices, and another process takes its address.
func TestKilled(t *testing.T) {
	pods := newPods(t, 3)
	one := connect(t, "one", pods[0])
	ac := flow.Between(t, one, connect(t, "three", pods[2]))
	moving := flow.Between(t, connect(t, "four", pods[0]), connectFirst(t, "two", pods[1], pods[2]))
	moving.More(t)

	before := incarnation(t, pods[1], pods[0])
	pods[1].Signal(syscall.SIGKILL)
	pods[1].Exit()
	moving.More(t) // what was on the pod is lost, what comes after is not

	pods[1].start(len(pods))
	for _, p := range pods {
		p.linked(2)
	}
	if after := incarnation(t, pods[1], pods[0]); after == before {
		t.Errorf("incarnation %s before and after", after)
	}
	flow.Between(t, connect(t, "six", pods[1]), connect(t, "seven", pods[0])).More(t)
	report(t, ac)
}

// incarnation returns that of the pod seen as another one has it.
func incarnation(t *testing.T, seen, by *pod) (number string) {
	t.Helper()
	flow.Eventually(t, seen.address+" is known", func() error {
		s, err := by.Status(t.Context())
		if err != nil {
			return err
		}
		for _, o := range s.Pods {
			if o.Address == seen.links && o.Incarnation != "" {
				number = o.Incarnation
				return nil
			}
		}
		return errors.New("it is not")
	})
	return number
}

// All pods are cut off from each other and come together again by themselves.
func TestSplit(t *testing.T) {
	pods := newPods(t, 3)
	for _, p := range pods {
		p.drop("tcp dport 7090")
		defer p.drop("")
	}
	for _, p := range pods {
		for _, other := range pods {
			if p != other {
				p.apart(other)
			}
		}
	}
	for _, p := range pods {
		p.drop("")
	}
	for _, p := range pods {
		p.linked(2)
	}
	flow.Between(t, connect(t, "one", pods[0]), connect(t, "three", pods[2])).More(t)
}

// The network between peers and their relay is dead, and neither side notices. A client
// leaves within five seconds, whether it sends or not, and the relay lets it go
// within ten; each has a second more here, for a machine that has other work.
func TestWayToPeersIsDead(t *testing.T) {
	t.Run("at the relay", func(t *testing.T) {
		wayToPeersIsDead(t, func(p *pod) { p.lose("tcp dport 80", "tcp sport 80") })
	})
	t.Run("at the peers", func(t *testing.T) {
		t.Cleanup(func() { lose(t, "nft -f -", "wire", "", "") })
		wayToPeersIsDead(t, func(p *pod) {
			lose(t, "nft -f -", "wire", "ip saddr "+p.address+" tcp sport 80", "ip daddr "+p.address+" tcp dport 80")
		})
	})
}

func wayToPeersIsDead(t *testing.T, cut func(*pod)) {
	pods := newPods(t, 2)
	idle, busy, hears := connect(t, "idle", pods[0]), connect(t, "busy", pods[0]), connect(t, "hears", pods[1])
	to, err := busy.OpenConn(t.Context(), hears.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	back, err := hears.OpenConn(t.Context(), idle.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	_ = back // nothing goes to the idle one
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	go func() {
		for ctx.Err() == nil {
			_, _ = to.Write(make([]byte, 1200)) // what becomes of it is not asked here
			time.Sleep(20 * time.Millisecond)
		}
	}()
	flow.Eventually(t, "the relay has both", func() error { return pods[0].peers(2) })
	time.Sleep(3 * time.Second) // so that the idle one is idle
	cut(pods[0])
	start := time.Now()
	left := func(c *client.Client) error {
		if c.State() == client.StateConnected {
			return errors.New("it is still connected")
		}
		return nil
	}
	for name, c := range map[string]*client.Client{"busy": busy, "idle": idle} {
		flow.Eventually(t, name+" has left", func() error { return left(c) })
		if took := time.Since(start); took > 6*time.Second {
			t.Errorf("the %s client left after %v", name, took)
		} else {
			t.Logf("the %s client left after at most %v", name, took.Round(10*time.Millisecond))
		}
	}
	flow.Eventually(t, "the relay has neither", func() error { return pods[0].peers(0) })
	took := time.Since(start)
	if took > 11*time.Second {
		t.Errorf("the relay let them go after %v", took)
	}
	t.Logf("the relay let them go after %v", took.Round(10*time.Millisecond))
}

package directory_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

func TestJoinIsKnownEverywhere(t *testing.T) {
	for _, pods := range []int{1, 2, 3, 7} {
		t.Run(fmt.Sprintf("pods=%d", pods), func(t *testing.T) {
			c := newCluster(t, pods)
			for i := range 200 {
				c.pods[i%pods].join(fmt.Sprint(i), uint64(i))
			}
			c.settle()
			c.check()
			for i := range 200 {
				for _, n := range c.pods {
					n.lookup(peer(fmt.Sprint(i)), 0)
				}
				c.settle()
				for _, n := range c.pods {
					if a := n.answer(t); a.Result != directory.Owner || a.Pod != c.pods[i%pods].member.ID {
						t.Fatalf("lookup of %d = %v at %d", i, a.Result, a.Pod)
					}
				}
			}
			for _, n := range c.pods {
				n.lookup(peer("absent"), 0)
			}
			c.settle()
			for _, n := range c.pods {
				if a := n.answer(t); a.Result != directory.NobodyHas {
					t.Errorf("lookup of nobody = %v", a.Result)
				}
			}
			for i := range 200 {
				c.pods[i%pods].leave(fmt.Sprint(i), uint64(i))
			}
			c.pass(3 * time.Second)
			c.check()
			for _, n := range c.pods {
				if s := n.Stats(); s.Local+s.Claims > 0 {
					t.Errorf("left over: %+v", s)
				}
			}
		})
	}
}

func TestSubscribers(t *testing.T) {
	c := newCluster(t, 3)
	for _, n := range c.pods {
		n.subscribe(peer("x"))
	}
	c.settle()
	c.pods[1].join("x", 1)
	c.settle()
	for i, n := range c.pods {
		if got := n.notices(); !same(got, []string{"online at 1"}) {
			t.Errorf("pod %d was told %q", i, got)
		}
	}
	c.pods[2].join("x", 7)
	c.settle()
	if e := c.pods[1].took(directory.Evict); len(e) != 1 || e[0].Conn != 1 || e[0].Pod != c.pods[2].member.ID {
		t.Errorf("evicted: %v", e)
	}
	c.pass(time.Second)
	for i, n := range c.pods {
		if got := n.notices(); !same(got, []string{"online at 2"}) {
			t.Errorf("pod %d was told %q of a move", i, got)
		}
	}
	c.pods[2].leave("x", 7)
	c.settle()
	for i, n := range c.pods {
		if got := n.notices(); len(got) != 0 {
			t.Errorf("pod %d was told %q at once", i, got)
		}
	}
	c.pass(time.Second)
	for i, n := range c.pods {
		if got := n.notices(); !same(got, []string{"offline"}) {
			t.Errorf("pod %d was told %q", i, got)
		}
		if at := n.Current(peer("x")); at != nil {
			t.Errorf("pod %d still knows %v", i, at)
		}
	}
	c.check()
}

func TestPodsComeAndGo(t *testing.T) {
	c := newCluster(t, 3)
	g := wire.GroupName("all")
	for i := range 300 {
		n := c.pods[i%3]
		n.join(fmt.Sprint(i), 1, g)
		n.subscribe(peer(fmt.Sprint((i * 7) % 300)))
	}
	c.pods[0].subscribe(g)
	c.settle()
	c.check()
	c.start(member(3))
	c.start(member(4))
	c.pass(20 * time.Second)
	c.check()
	for _, n := range c.pods {
		n.took(directory.NotifyOnline)
		if off := n.took(directory.NotifyOffline); len(off) > 0 {
			t.Errorf("a pod came, and pod %d was told %d times of an end", n.member.ID, len(off))
		}
	}
	if len(c.pods[0].Current(g)) != 300 {
		t.Errorf("%d members, want 300", len(c.pods[0].Current(g)))
	}
	// A crash.
	gone := c.pods[1]
	for _, n := range c.pods {
		c.cut(gone, n)
	}
	c.pods = append(c.pods[:1], c.pods[2:]...)
	c.pass(20 * time.Second)
	c.check()
	if len(c.pods[0].Current(g)) != 200 {
		t.Errorf("%d members, want 200", len(c.pods[0].Current(g)))
	}
	off := 0
	for _, n := range c.pods {
		off += len(n.took(directory.NotifyOffline))
	}
	if off == 0 {
		t.Error("no pod got an offline after the crash")
	}
	// A stop.
	stopped := c.pods[1]
	stopped.Stop(c.now)
	stopped.collect()
	c.settle()
	c.pods = append(c.pods[:1], c.pods[2:]...)
	c.pass(10 * time.Second)
	c.check()
}

package relay_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// groupLog notes what is said of the members of a group.
type groupLog struct {
	mu   sync.Mutex
	said []string
}

// member is m as text.
func member(m cluster.Member) string {
	for _, name := range []string{"x", "y", "z", "stranger"} {
		if m.ID == messages.HashID(name) {
			return name + " at " + m.Pod
		}
	}
	return m.ID.String()
}

func (l *groupLog) changed(m cluster.Member, online bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, fmt.Sprintf("%s %t", member(m), online))
}

// expect fails the test unless that was said since the last call, in any order.
func (l *groupLog) expect(t *testing.T, want ...string) {
	t.Helper()
	time.Sleep(settling)
	l.mu.Lock()
	defer l.mu.Unlock()
	slices.Sort(l.said)
	if !slices.Equal(l.said, want) {
		t.Errorf("said of the group: %q, want %q", l.said, want)
	}
	l.said = nil
}

// join connects a peer to r as a member of groups.
func join(t *testing.T, r *relay.Relay, name string, groups ...string) *peer {
	t.Helper()
	client, server := msgPipe(pipeDepth)
	go r.AcceptMember(server, groups...)
	t.Cleanup(func() { _ = client.Close() })
	p := &peer{t, messages.HashID(name), client}
	p.auth(secret)
	p.next()
	synctest.Wait()
	return p
}

// Members of a group are listed on every pod with the pod of each, and watchers are told
// of those that join, move and leave, as of those that were there.
func TestGroups(t *testing.T) {
	for _, n := range []int{1, 3} {
		t.Run(fmt.Sprintf("pods=%d", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var pods []*relay.Relay
				at := func(int) string { return "" }
				if n == 1 {
					pods = append(pods, newRelay(t))
				} else {
					c := newPods(t, n)
					for _, p := range c.all {
						pods = append(pods, p.Relay)
					}
					at = func(i int) string { return c.all[i].addr + ":7090" }
				}
				last := n - 1
				var early, late groupLog
				stop := pods[0].WatchGroup("k", early.changed)
				x := join(t, pods[0], "x", "k")
				join(t, pods[last], "y", "j", "k")
				join(t, pods[last], "stranger", "j")
				connect(t, pods[0], "z")
				here, there := at(0), at(last)
				early.expect(t, "x at "+here+" true", "y at "+there+" true")
				pods[0].WatchGroup("k", late.changed)
				late.expect(t, "x at "+here+" true", "y at "+there+" true")
				for i, r := range pods {
					all, err := r.Members(t.Context(), "k")
					var got []string
					for _, m := range all {
						got = append(got, member(m))
					}
					slices.Sort(got)
					if want := []string{"x at " + here, "y at " + there}; err != nil || !slices.Equal(got, want) {
						t.Errorf("pod %d: Members = %q, %v, want %q", i, got, err, want)
					}
					if all, err := r.Members(t.Context(), "nobody's"); len(all) > 0 || err != nil {
						t.Errorf("pod %d: members of no group: %v, %v", i, all, err)
					}
				}
				x.hangUp()
				early.expect(t, "x at  false")
				stop()
				late.expect(t, "x at  false")
				join(t, pods[0], "y", "k")
				late.expect(t, "y at "+here+" true")
				connect(t, pods[0], "y") // the same peer, no member any more
				late.expect(t, "y at  false")
				early.expect(t)
			})
		})
	}
}

// Members lists all members, however many they are.
func TestManyMembers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 100
		c := newPods(t, 3)
		for i := range many {
			join(t, c.all[i%3].Relay, fmt.Sprint("m", i), "k")
		}
		time.Sleep(settling)
		for i, p := range c.all {
			if all, err := p.Members(t.Context(), "k"); len(all) != many || err != nil {
				t.Errorf("pod %d: Members: %d of %d, %v", i, len(all), many, err)
			}
		}
	})
}

// Members that leave while WatchGroup passes on those that are there are not reported
// online for ever, and the calls come one at a time.
func TestLeaveDuringWatchGroup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		var members []*peer
		for i := range 300 { // some share a shard of the store
			members = append(members, join(t, r, fmt.Sprint("m", i), "k"))
		}
		var calls atomic.Int32
		var overlapping atomic.Bool
		var online sync.Map
		var leave sync.Once
		r.WatchGroup("k", func(m cluster.Member, is bool) {
			if calls.Add(1) > 1 {
				overlapping.Store(true)
			}
			defer calls.Add(-1)
			online.Store(m.ID, is)
			leave.Do(func() {
				for _, p := range members {
					_ = p.Close()
				}
				for r.Store().Len() > 0 {
					runtime.Gosched()
				}
				for range 1000 { // for calls that do not wait for this one
					runtime.Gosched()
				}
			})
		})
		synctest.Wait()
		if overlapping.Load() {
			t.Error("two calls at a time")
		}
		for id, is := range online.Range {
			if is.(bool) {
				t.Errorf("%v has left, and the last call says online", id)
			}
		}
	})
}

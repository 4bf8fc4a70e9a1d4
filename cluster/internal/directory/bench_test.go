package directory_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

func numbered(i int) (id messages.PeerID) {
	copy(id[:], "sha-")
	binary.BigEndian.PutUint64(id[4:], wire.Mix(uint64(i)+1))
	binary.BigEndian.PutUint64(id[12:], uint64(i))
	return id
}

// full returns one pod of a cluster with a million peers: its own, and the
// claims of the others that it is a home of.
func full(b *testing.B, pods int) (p *directory.Pod, own int) {
	p = alone(pods, plainID, 2)
	for i := 1; i < pods; i++ {
		for p.Sync(0, directory.Session(i), 1000) {
		}
	}
	const names = 1_000_000
	own = names / pods
	for i := range own {
		p.Join(0, numbered(i), 1)
		p.Effects()
	}
	batch := make([]wire.Entry, 0, 300)
	for i := own; i < names; i++ {
		n := wire.PeerName(numbered(i))
		for _, h := range p.Homes(n) {
			if h == plainID(0) {
				batch = append(batch[:0], wire.Entry{Kind: wire.Register, Name: n, Epoch: 5})
				if err := p.Receive(0, directory.Session(1+i%(pods-1)), batch); err != nil {
					b.Fatal(err)
				}
			}
		}
	}
	p.Effects()
	return p, own
}

var sizes = []int{3, 30, 300}

func BenchmarkJoinLeave(b *testing.B) {
	for _, pods := range sizes {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			p, own := full(b, pods)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				id := numbered(2_000_000 + i%own)
				i++
				p.Join(0, id, 1)
				p.Leave(0, id, 1)
				p.Effects()
			}
		})
	}
}

func BenchmarkRegisterUnregister(b *testing.B) {
	for _, pods := range sizes {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			p, own := full(b, pods)
			b.ReportAllocs()
			batch := make([]wire.Entry, 2)
			i, now := 0, directory.Time(0)
			for b.Loop() {
				n := wire.PeerName(numbered(2_000_000 + i%own))
				i++
				batch[0] = wire.Entry{Kind: wire.Register, Name: n, Epoch: 5}
				batch[1] = wire.Entry{Kind: wire.Unregister, Name: n}
				if err := p.Receive(now, 1, batch); err != nil {
					b.Fatal(err)
				}
				now += 1000
				p.Tick(now)
				p.Effects()
			}
		})
	}
}

// A lookup asked and answered, and one answered for another pod.
func BenchmarkLookup(b *testing.B) {
	for _, pods := range sizes {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			p, own := full(b, pods)
			b.ReportAllocs()
			batch := make([]wire.Entry, 1)
			i, now := 0, directory.Time(0)
			for b.Loop() {
				n := wire.PeerName(numbered(own + i%(1_000_000-own)))
				i++
				now += 10_000
				p.Lookup(now, n, 0)
				for _, e := range p.Effects() {
					if e.Do == directory.Send {
						batch[0] = wire.Entry{Kind: wire.IHave, Name: n, Pod: 9, Epoch: 7, ID: e.Entry.ID}
						if err := p.Receive(now, e.Session, batch); err != nil {
							b.Fatal(err)
						}
					}
				}
				p.Tick(now)
				p.Effects()
			}
		})
	}
}

func BenchmarkWhoHas(b *testing.B) {
	p, _ := full(b, 3)
	b.ReportAllocs()
	batch := make([]wire.Entry, 1)
	i := 0
	for b.Loop() {
		batch[0] = wire.Entry{Kind: wire.WhoHas, Name: wire.PeerName(numbered(i % 1_000_000)), ID: 1}
		i++
		if err := p.Receive(0, 1, batch); err != nil {
			b.Fatal(err)
		}
		p.Effects()
	}
}

// A pod comes and goes: everything is placed again, and nothing takes long.
func BenchmarkViewChange(b *testing.B) {
	for _, pods := range sizes {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			p, _ := full(b, pods)
			newcomer := directory.Member{ID: 7, Address: "10.1.1.1:7090"}
			now, session := directory.Time(0), directory.Session(1_000_000)
			var longest time.Duration
			timed := func(f func()) {
				start := time.Now()
				f()
				longest = max(longest, time.Since(start))
			}
			var due []directory.Session
			settle := func() {
				now += int64(10 * time.Millisecond)
				timed(func() { p.Tick(now) })
				for {
					for _, e := range p.Effects() {
						if e.Do == directory.SyncDue {
							due = append(due, e.Session)
						}
					}
					if len(due) == 0 {
						return
					}
					s := due[0]
					due = due[1:]
					more := true
					for more {
						timed(func() { more = p.Sync(now, s, 256) })
						for _, e := range p.Effects() {
							if e.Do == directory.SyncDue {
								due = append(due, e.Session)
							}
						}
					}
				}
			}
			settle()
			longest = 0
			runtime.GC()
			for b.Loop() {
				session++
				now += int64(20 * time.Millisecond)
				timed(func() { p.SessionUp(now, session, newcomer) })
				settle()
				timed(func() { p.PodGone(now, newcomer.ID) })
				settle()
			}
			b.ReportMetric(float64(longest.Microseconds()), "µs/longest")
		})
	}
}

// Memory of a pod, to be divided by its claims.
func BenchmarkMemory(b *testing.B) {
	for _, pods := range sizes {
		b.Run(fmt.Sprintf("pods=%d", pods), func(b *testing.B) {
			var before, after runtime.MemStats
			for b.Loop() {
				runtime.GC()
				runtime.ReadMemStats(&before)
				p, own := full(b, pods)
				runtime.GC()
				runtime.ReadMemStats(&after)
				b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(own+p.Stats().Claims), "B/name")
				runtime.KeepAlive(p)
			}
		})
	}
}

package transport

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/test/memnet"
)

// strangers is what somebody without the secret may do with a connection. Each
// returns when it has done its worst.
var strangers = []struct {
	name string
	do   func(net.Conn)
}{
	{"says nothing", func(net.Conn) {}},
	{"closes at once", func(c net.Conn) { c.Close() }},
	{"noise", func(c net.Conn) {
		b := make([]byte, 3000)
		rand.Read(b)
		_, _ = c.Write(b)
	}},
	{"HTTP", func(c net.Conn) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: relay\r\n\r\n")) }},
	{"half a ClientHello", func(c net.Conn) { _, _ = c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}) }},
	{"TLS and then nothing", func(c net.Conn) { _ = encrypted(c) }},
	{"TLS of something else", func(c net.Conn) {
		_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}).Handshake()
	}},
	{"a huge frame", func(c net.Conn) {
		if t := encrypted(c); t != nil {
			_, _ = t.Write([]byte{byte(wire.TypeHello), 0xff, 0xff, 0xff})
		}
	}},
	{"data before HELLO", func(c net.Conn) {
		if t := encrypted(c); t != nil {
			_, _ = t.Write(wire.AppendPing(nil, wire.Ping{}))
		}
	}},
	{"HELLO and then nothing", func(c net.Conn) {
		if t := encrypted(c); t != nil {
			b, _ := wire.AppendHello(nil, &wire.Hello{Min: 1, Max: 2, Address: "10.0.0.66:7090", Keys: []wire.Fingerprint{{1}}})
			_, _ = t.Write(b)
		}
	}},
}

// cheapStrangers are the first of them, which take no cryptography.
const cheapStrangers = 5

// encrypted does the TLS handshake of a dialer; nil: it failed.
func encrypted(c net.Conn) *tls.Conn {
	t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"crosspod/1"}})
	if t.Handshake() != nil {
		return nil
	}
	return t
}

// A balancer that looks whether the port is open, from where a pod is as well, is
// told nothing, fails nothing, and keeps the pod out for no moment.
func TestLooksAtThePort(t *testing.T) {
	inBubble(t, time.Millisecond, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		a := r.pod("10.0.0.1").start()
		for i := range 3 * failureBurst {
			c, err := r.net.Host("10.0.0.2").Dial(t.Context(), "tcp", "10.0.0.1:7090")
			if err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				_ = c.(*memnet.Conn).Close()
			} else {
				c.(*memnet.Conn).Reset()
			}
		}
		time.Sleep(time.Second)
		if n := a.rejects(""); n > 0 {
			t.Errorf("%d are counted as refused", n)
		}
		b := r.pod("10.0.0.2").start()
		r.within(3*time.Second, "the pod is linked", func() bool { return meshed(a, b) })
	})
}

// TestTenThousandStrangers: what has not proved itself costs a bounded number of
// sockets, goroutines and bytes, and does not keep a pod out (F16).
func TestTenThousandStrangers(t *testing.T) {
	inBubble(t, time.Millisecond, func(t *testing.T, r *rig) {
		const each, sources = 100, 100
		r.resolves("10.0.0.1", "10.0.0.2")
		a := r.pod("10.0.0.1").start()
		synctest.Wait()
		var before runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)

		var crowd sync.WaitGroup
		for s := range sources {
			host := r.net.Host(fmt.Sprintf("192.0.2.%d", s))
			crowd.Go(func() {
				for i := range each {
					c, err := host.Dial(context.Background(), "tcp", "10.0.0.1:7090")
					if err != nil {
						continue
					}
					_ = c.SetDeadline(time.Now().Add(30 * time.Second))
					kinds := len(strangers)
					if i%10 > 0 {
						kinds = cheapStrangers
					}
					strangers[(s+i)%kinds].do(c)
					if i%10 == 0 {
						time.Sleep(100 * time.Millisecond)
					}
				}
			})
		}
		var b *rigPod
		most := 0
		for i := range 200 {
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			most = max(most, r.net.Conns(a.host))
			if n := a.transport.gate.Len(); n > maxHalfOpen {
				t.Fatalf("%d connections are half open", n)
			}
			if i == 20 {
				b = r.pod("10.0.0.2").start()
			}
			if i == 120 && !meshed(a, b) {
				t.Error("a pod found no way through the crowd in a second")
			}
		}
		crowd.Wait()
		// The sockets that a holds itself: half open, its link, and a few that
		// are being closed.
		if limit := maxHalfOpen + 16; most > limit {
			t.Errorf("%d connections were open, want at most %d", most, limit)
		}
		time.Sleep(handshake.DefaultTimeout + time.Second)
		synctest.Wait()
		if n := r.net.Conns(a.host); n != 1 || !meshed(a, b) {
			t.Errorf("%d connections are left", n)
		}
		if n := a.transport.gate.Len(); n != 0 {
			t.Errorf("%d places in the gate are taken", n)
		}
		for s := range sources {
			r.net.Host(fmt.Sprintf("192.0.2.%d", s)).Crash() // their ends are no memory of a
		}
		var after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
			t.Errorf("%d bytes are kept for nobody", grown)
		}
		if n := a.rejects(""); n < each*sources/2 {
			t.Errorf("%d of %d are counted", n, each*sources)
		}
	})
}

// TestSlowStranger: one byte at a time buys no time.
func TestSlowStranger(t *testing.T) {
	inBubble(t, time.Millisecond, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1")
		a := r.pod("10.0.0.1").start()
		c, err := r.net.Host("192.0.2.1").Dial(t.Context(), "tcp", "10.0.0.1:7090")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		hello := append([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}, make([]byte, 501)...)
		for i := range hello {
			if _, err := c.Write(hello[i : i+1]); err != nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(start); took > handshake.DefaultTimeout+time.Second {
			t.Errorf("it was listened to for %v", took)
		}
		if a.rejects("timeout") != 1 {
			t.Error("it is not counted as a timeout")
		}
	})
}

// TestOneSourceStandsInItsOwnWay: a flood from one address takes no place from
// another, and is refused at accept before long.
func TestOneSourceStandsInItsOwnWay(t *testing.T) {
	inBubble(t, 0, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1")
		a := r.pod("10.0.0.1").start()
		quiet, err := r.net.Host("192.0.2.1").Dial(t.Context(), "tcp", "10.0.0.1:7090")
		if err != nil {
			t.Fatal(err)
		}
		flooder := r.net.Host("192.0.2.2")
		for i := range 500 {
			c, err := flooder.Dial(t.Context(), "tcp", "10.0.0.1:7090")
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			_ = c.SetReadDeadline(time.Now().Add(time.Microsecond))
			if _, err := c.Read(make([]byte, 1)); os.IsTimeout(err) && i > maxHalfOpen+2*failureBurst {
				t.Fatalf("connection %d is let in still", i)
			}
		}
		_ = quiet.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := quiet.Read(make([]byte, 1)); !os.IsTimeout(err) {
			t.Errorf("the quiet one lost its place: %v", err)
		}
		if a.rejects(nolink.Limit) < 400 {
			t.Errorf("%d of 500 were refused", a.rejects(nolink.Limit))
		}
		// It may come back when it has calmed down.
		time.Sleep(handshake.DefaultTimeout + failureBurst/failuresPerSecond*time.Second)
		again, err := flooder.Dial(t.Context(), "tcp", "10.0.0.1:7090")
		if err != nil {
			t.Fatal(err)
		}
		if encrypted(again) == nil {
			t.Error("it is still refused")
		}
	})
}

// TestMemberThatMisbehaves: who has the secret can still end its own link only.
func TestMemberThatMisbehaves(t *testing.T) {
	use := wire.AppendUse(nil, 1<<40)
	for _, tt := range []struct {
		name string
		send []byte
	}{
		{"USE twice", append(use, use...)},
		{"HELLO again", []byte{byte(wire.TypeHello), 0, 0, 0}},
		{"an entry before USE", wire.AppendEntries(nil, []wire.Entry{{Kind: wire.Leave}})},
		{"a TALLY of no session", wire.AppendHeader(nil, wire.TypeTally, 3)},
		{"a frame too long", []byte{byte(wire.TypePing), 1, 0, 0}},
		{"complaints cut short", append(wire.AppendHeader(nil, wire.TypeComplaint, 2), 9, 'x')},
		{"nothing at all", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, time.Millisecond, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2")
				a, b := r.pod("10.0.0.1").start(), r.pod("10.0.0.2").start()
				r.within(time.Second, "a link", func() bool { return meshed(a, b) })
				time.Sleep(3 * time.Second)
				keys, _ := handshake.NewKeyRing(rigSecret)
				// Both as leader and as follower.
				for incarnation := range uint64(8) {
					member, err := handshake.New(handshake.Config{Address: "10.0.0.3:7090", Incarnation: incarnation, Keys: keys})
					if err != nil {
						t.Fatal(err)
					}
					sock, err := r.net.Host("10.0.0.3").Dial(t.Context(), "tcp", "10.0.0.1:7090")
					if err != nil {
						t.Fatal(err)
					}
					c, err := member.Dial(t.Context(), sock)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := c.TLS.Write(tt.send); err != nil {
						t.Fatal(err)
					}
					start := time.Now()
					_ = sock.SetReadDeadline(start.Add(10 * time.Second))
					for b := make([]byte, 1000); err == nil; {
						_, err = c.TLS.Read(b)
					}
					if took := time.Since(start); took > max(useTimeout, link.DefaultPingTimeout)+time.Second {
						t.Errorf("it was kept for %v", took)
					}
					sock.Close()
				}
				time.Sleep(linkGrace + time.Second)
				synctest.Wait()
				if !a.linked(b) || a.log.count("10.0.0.2:7090") == 0 {
					t.Error("the link to another pod has gone")
				}
				if n := len(a.transport.pods); n != 1 {
					t.Errorf("%d pods are remembered", n)
				}
			})
		})
	}
}

// TestStrangersAtARealSocket is TestTenThousandStrangers with sockets of the
// system, fewer of them and a few hundred at a time.
func TestStrangersAtARealSocket(t *testing.T) {
	const strangersInAll = 2_000
	pod := func(ip string, resolver discovery.Resolver) (*Transport, *discovery.Discovery, *witness) {
		m, err := metrics.New(nil)
		if err != nil {
			t.Fatal(err)
		}
		c := Config{PodIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, ListenAddress: ip + ":0", Secrets: []string{rigSecret}}
		tr, err := New(c, m, discardLogger)
		if err == nil {
			err = tr.Listen()
		}
		if err != nil {
			t.Fatal(err)
		}
		w := newWitness()
		d := discovery.New(resolver, 0, tr, tr.log)
		tr.Start(w.users(d))
		t.Cleanup(func() { d.Stop(); tr.Stop() })
		return tr, d, w
	}
	resolver := new(fixed)
	a, _, _ := pod("127.0.0.1", resolver)
	*resolver = fixed{a.self.address.String()}

	goroutines := runtime.NumGoroutine()
	var mostGoroutines, mostOpen int
	crowd, slots := sync.WaitGroup{}, make(chan struct{}, 300)
	for i := range strangersInAll {
		slots <- struct{}{}
		if i == strangersInAll/2 {
			_, d, w := pod("127.0.0.1", resolver)
			d.Start()
			// It comes from the strangers' own address, and gets through
			// between their failures.
			defer func() {
				for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
					w.mu.Lock()
					n := len(w.sessions)
					w.mu.Unlock()
					if n == 1 {
						return
					}
					if time.Now().After(end) {
						t.Error("a pod found no way through the crowd")
						return
					}
				}
			}()
		}
		crowd.Go(func() {
			defer func() { <-slots }()
			c, err := net.DialTimeout("tcp", a.self.address.String(), 10*time.Second)
			if err != nil {
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(10 * time.Second))
			strangers[i%len(strangers)].do(c)
			_, _ = c.Read(make([]byte, 1)) // until it is closed
		})
		if i%100 == 0 {
			mostOpen = max(mostOpen, a.gate.Len())
			mostGoroutines = max(mostGoroutines, runtime.NumGoroutine()-goroutines-len(slots))
		}
	}
	crowd.Wait()
	if mostOpen > maxHalfOpen {
		t.Errorf("%d connections were half open", mostOpen)
	}
	if limit := 3*maxHalfOpen + 50; mostGoroutines > limit {
		t.Errorf("%d goroutines, want at most %d", mostGoroutines, limit)
	}
}

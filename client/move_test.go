package client_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/relay"
)

// fleet is pods of one relay in a bubble, behind a balancer that deals new connections
// out to those that it lists, in turn.
type fleet struct {
	t     *testing.T
	net   *memnet.Network
	names []string        // of all pods there may be
	pick  func(n int) int // which of n pods gets a connection; nil: one after the other

	mu     sync.Mutex // guards what follows
	listed []string
	turn   int
}

type fleetPod struct {
	*relay.Server
	name   string
	served chan error
	reg    *prometheus.Registry
}

// drops returns what the pods have dropped, by reason.
func (p *fleetPod) drops(t *testing.T) string {
	t.Helper()
	families, err := p.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, f := range families {
		if f.GetName() != "relay_messages_dropped_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			if n := m.GetCounter().GetValue(); n > 0 {
				text += fmt.Sprintf(" %s: %v %v;", p.name, n, m.GetLabel())
			}
		}
	}
	return text
}

// newFleet is of at most n pods. No pod is started.
func newFleet(t *testing.T, n int, latency time.Duration) *fleet {
	f := &fleet{t: t, net: memnet.New(memnet.Config{Latency: latency})}
	for i := range n {
		f.names = append(f.names, fmt.Sprintf("10.0.0.%d", i+1))
	}
	return f
}

// start starts a pod and lists it when it is ready.
func (f *fleet) start(i int) *fleetPod {
	f.t.Helper()
	name := f.names[i]
	reg := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(reg))
	if err != nil {
		f.t.Fatal(err)
	}
	s, err := relay.NewServer(relay.Config{
		Meter:          sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("relay"),
		ExposedAddress: "rel://relay:80",
		AuthValidator:  auth.NewValidator(exampleSecret),
		Limits:         relay.Limits{ShutdownSpread: 4 * time.Second},
		Cluster: &cluster.Config{
			StaticPeers: f.names, PodIP: name, AuthSecret: "a cluster secret of 32 characters or more",
			Interval: 100 * time.Millisecond,
			Listen:   func(network, address string) (net.Listener, error) { return f.net.Host(name).Listen(network, address) },
			Dial:     f.net.Host(name).Dial,
		},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	ln, err := f.net.Host(name).Listen("tcp", name+":80")
	if err != nil {
		f.t.Fatal(err)
	}
	p := &fleetPod{Server: s, name: name, served: make(chan error, 1), reg: reg}
	go func() { p.served <- s.Listen(relay.ListenerConfig{Listener: ln}) }()
	if err := s.WaitReady(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	time.Sleep(time.Second) // all links are measured
	f.mu.Lock()
	f.listed = append(f.listed, name)
	f.mu.Unlock()
	return p
}

// unlist makes the balancer forget a pod.
func (f *fleet) unlist(p *fleetPod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, name := range f.listed {
		if name == p.name {
			f.listed = append(f.listed[:i:i], f.listed[i+1:]...)
			return
		}
	}
}

// stop stops a pod as an operator would: for a while it is listed still.
func (f *fleet) stop(p *fleetPod) {
	p.Drain()
	time.Sleep(time.Second)
	f.unlist(p)
	time.Sleep(time.Second)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := p.Shutdown(ctx); err != nil {
		f.t.Error(err)
	}
	if err := <-p.served; err != nil {
		f.t.Error(err)
	}
	if drops := p.drops(f.t); drops != "" {
		f.t.Log("dropped", drops)
	}
}

func (f *fleet) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	f.mu.Lock()
	if len(f.listed) == 0 {
		f.mu.Unlock()
		return nil, errors.New("no pod is listed")
	}
	turn := f.turn % len(f.listed)
	if f.pick != nil {
		turn = f.pick(len(f.listed))
	}
	name := f.listed[turn]
	f.turn++
	f.mu.Unlock()
	return f.net.Host("clients").Dial(ctx, network, name+":80")
}

// connect connects a client by the balancer.
func (f *fleet) connect(name string) *client.Client {
	f.t.Helper()
	c, err := client.Dial(f.t.Context(), client.Config{
		URL: "rel://relay", Name: name, Token: client.SecretToken(exampleSecret, time.Hour), DialContext: f.dial,
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	return c
}

// stream is numbered messages from one client to another, at a steady rate.
type stream struct {
	name       string
	sent, next atomic.Uint64
	lost       atomic.Uint64
	late       atomic.Uint64 // came behind a later one
}

func (s *stream) send(ctx context.Context, every time.Duration, write func([]byte) error) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if write(binary.BigEndian.AppendUint64(nil, s.sent.Load())) != nil {
			return
		}
		s.sent.Add(1)
	}
}

func (s *stream) got(b []byte) {
	n := binary.BigEndian.Uint64(b)
	switch next := s.next.Load(); {
	case n < next:
		s.late.Add(1)
	default:
		s.lost.Add(n - next)
		s.next.Store(n + 1)
	}
}

// check fails the test unless all has come, in order.
func (s *stream) check(t *testing.T) {
	t.Helper()
	if sent, next := s.sent.Load(), s.next.Load(); s.lost.Load() != 0 || s.late.Load() != 0 || next != sent || sent == 0 {
		t.Errorf("%s: %d sent, %d missing in between, %d at the end, %d overtaken", s.name, sent, s.lost.Load(), sent-next, s.late.Load())
	}
}

// pair is two clients that send to each other. conns: over Conns, which subscribe to
// each other; else over PacketConns.
func (f *fleet) pair(ctx context.Context, wg *sync.WaitGroup, name string, every time.Duration, conns bool) (a, b *client.Client, streams []*stream) {
	a, b = f.connect(name+" a"), f.connect(name+" b")
	ends := []*client.Client{a, b}
	opened := make([]net.Conn, 2)
	var opening sync.WaitGroup
	for i := range ends {
		s := &stream{name: fmt.Sprintf("%s %d", name, i)}
		streams = append(streams, s)
		if conns {
			opening.Go(func() {
				var err error
				if opened[i], err = ends[i].OpenConn(ctx, ends[1-i].PeerID()); err != nil {
					f.t.Errorf("%s: %v", name, err)
				}
			})
		}
	}
	opening.Wait()
	for i, s := range streams {
		from, to := ends[i], ends[1-i]
		buf := make([]byte, 100)
		if conns {
			wg.Go(func() { s.send(ctx, every, func(b []byte) error { _, err := opened[i].Write(b); return err }) })
			wg.Go(func() {
				for {
					n, err := opened[1-i].Read(buf)
					if err != nil {
						return
					}
					s.got(buf[:n])
				}
			})
			continue
		}
		out, in := from.PacketConn(), to.PacketConn()
		wg.Go(func() {
			s.send(ctx, every, func(b []byte) error { _, err := out.WriteTo(b, client.Addr(to.PeerID())); return err })
		})
		wg.Go(func() {
			for {
				n, _, err := in.ReadFrom(buf)
				if err != nil {
					return
				}
				s.got(buf[:n])
			}
		})
	}
	return a, b, streams
}

// All pods are replaced, one after another or all old ones at once, while pairs of
// clients send to each other: nothing is lost, nothing is overtaken, no client is without
// a connection, and none is told that another went offline.
func TestRollingRestartLosesNothing(t *testing.T) {
	for _, latency := range []time.Duration{time.Millisecond, 50 * time.Millisecond} {
		for _, surge := range []bool{false, true} {
			t.Run(fmt.Sprintf("latency %v, all at once %t", latency, surge), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					f := newFleet(t, 6, latency)
					pods := []*fleetPod{f.start(0), f.start(1), f.start(2)}
					ctx, cancel := context.WithCancel(t.Context())
					var flows sync.WaitGroup
					var clients []*client.Client
					var streams []*stream
					for i := range 6 {
						a, b, s := f.pair(ctx, &flows, fmt.Sprint("pair ", i), 10*time.Millisecond, i%2 == 0)
						clients, streams = append(clients, a, b), append(streams, s...)
					}
					watcher := f.connect("watcher")
					var offline, disconnected atomic.Int64
					for _, c := range clients {
						news, err := watcher.Subscribe(c.PeerID())
						if err != nil {
							t.Fatal(err)
						}
						flows.Go(func() {
							for e := range news.Events() {
								if !e.Online {
									offline.Add(1)
								}
							}
						})
						flows.Go(func() {
							for ; ctx.Err() == nil; time.Sleep(time.Millisecond) {
								if c.State() != client.StateConnected {
									disconnected.Add(1)
								}
							}
						})
					}
					time.Sleep(2 * time.Second)

					if surge {
						young := []*fleetPod{f.start(3), f.start(4), f.start(5)}
						var stops sync.WaitGroup
						for _, p := range pods {
							stops.Go(func() { f.stop(p) })
						}
						stops.Wait()
						pods = young
					} else {
						for i, p := range pods {
							young := f.start(3 + i)
							f.stop(p)
							pods[i] = young
						}
					}
					time.Sleep(2 * time.Second)
					cancel()
					time.Sleep(2 * time.Second) // what is under way arrives

					moves := uint64(0)
					for _, c := range clients {
						s := c.Stats()
						moves += s.Moves
						if s.Moves == 0 || s.MovesFailed != 0 || s.Connections != s.Moves+1 || s.Dropped != (client.Drops{}) {
							t.Errorf("client %+v", s)
						}
						_ = c.Close()
					}
					_ = watcher.Close()
					flows.Wait()
					for _, s := range streams {
						s.check(t)
					}
					if offline.Load() != 0 || disconnected.Load() != 0 {
						t.Errorf("%d offline notices, %d ms without a connection", offline.Load(), disconnected.Load())
					}
					t.Logf("%d moves of %d clients", moves, len(clients))
					for _, p := range pods {
						f.unlist(p)
						if drops := p.drops(t); drops != "" {
							t.Log("dropped", drops)
						}
						_ = p.Close()
						<-p.served
					}
				})
			})
		}
	}
}

// A client that no other pod takes stays where it is, for as long as it may; asked by a
// pod that stops, it is closed in the end and connects again.
func TestNoOtherPodTakesTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, time.Millisecond)
		first, second := f.start(0), f.start(1)
		f.unlist(second) // every attempt leads to the first
		a := f.connect("a")
		b := f.connect("b")
		out, in := a.PacketConn(), b.PacketConn()
		say := func(text string) {
			t.Helper()
			if _, err := out.WriteTo([]byte(text), client.Addr(b.PeerID())); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 100)
			_ = in.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, _, err := in.ReadFrom(buf); err != nil || string(buf[:n]) != text {
				t.Errorf("got %q, %v, want %q", buf[:n], err, text)
			}
		}
		say("one")
		time.Sleep(2 * time.Minute)
		first.MoveAway(2)
		time.Sleep(5 * time.Second)
		say("two")
		for _, c := range []*client.Client{a, b} {
			if s := c.Stats(); s.MovesAsked != 1 || s.MovesFailed != 1 || s.Moves != 0 || s.Failures != 3 || s.Connections != 1 {
				t.Errorf("client %+v", s)
			}
		}
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			f.stop(first)
		}()
		time.Sleep(3 * time.Second)
		say("three") // asked, and still served
		<-stopped
		f.mu.Lock()
		f.listed = append(f.listed, second.name)
		f.mu.Unlock()
		time.Sleep(time.Minute)
		say("four")
		_, _ = a.Close(), b.Close()
		f.unlist(second)
		_ = second.Close()
		<-second.served
	})
}

package relay_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
	"github.com/crosspod/crosspod/relay/listener"
)

// counters reads the metrics of a relay under test.
type counters struct{ reg *prometheus.Registry }

// counted gives a relay a meter and returns what reads it.
func counted(t *testing.T) (func(*relay.Config), *counters) {
	t.Helper()
	reg := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(reg))
	if err != nil {
		t.Fatal(err)
	}
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter)).Meter("relay")
	return func(c *relay.Config) { c.Meter = meter }, &counters{reg}
}

// value returns the sum of the samples of name whose label, if given, is value.
func (c *counters) value(t *testing.T, name string, label ...string) (sum float64) {
	t.Helper()
	families, err := c.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			match := len(label) == 0
			for _, l := range m.GetLabel() {
				match = match || l.GetName() == label[0] && l.GetValue() == label[1]
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func (c *counters) dropped(t *testing.T, reason string) int {
	t.Helper()
	return int(c.value(t, "relay_messages_dropped_total", "reason", reason))
}

// balance checks that every message has had one fate.
func (c *counters) balance(t *testing.T) {
	t.Helper()
	received, delivered := c.value(t, "relay_messages_received_total"), c.value(t, "relay_messages_delivered_total")
	dropped, queued := c.value(t, "relay_messages_dropped_total"), c.value(t, "relay_messages_queued")
	if received != delivered+dropped+queued {
		t.Errorf("received %v, delivered %v + dropped %v + queued %v", received, delivered, dropped, queued)
	}
}

func TestFirstMessage(t *testing.T) {
	token := auth.Issue(secret, time.Now().Add(time.Hour))
	alice := messages.HashID("alice")
	with := func(token []byte) []byte {
		msg, err := messages.AppendAuth(nil, alice, token)
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	good := func() []byte { return with(token) }
	changed := func(at int, to byte) []byte {
		msg := good()
		msg[at] = to
		return msg
	}
	tests := []struct {
		name string
		msg  []byte
	}{
		{"empty", nil},
		{"one byte", []byte{1}},
		{"version 2", changed(0, 2)},
		{"legacy Hello", changed(1, byte(messages.TypeHello))},
		{"a Transport", messages.AppendTransport(nil, alice, []byte("x"))},
		{"a HealthCheck", messages.AppendHealthCheck(nil)},
		{"wrong magic", changed(2, 0)},
		{"cut short", good()[:41]},
		{"no token", good()[:42]},
		{"a bit of the signature flipped", changed(50, good()[50]^1)},
		{"another algorithm", changed(42, 9)},
		{"too long", append(good(), bytes.Repeat([]byte("1"), 200)...)},
		{"the id of a part of the relay, without a token that names it", changed(6, 'g')},
		{"expired", with(auth.Issue(secret, time.Now().Add(-24*time.Hour*365*50)))},
		{"expired, of another secret", with(auth.Issue("another", time.Now().Add(-24*time.Hour*365*50)))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				meter, c := counted(t)
				r := newRelay(t, meter)
				p := dial(t, r, "alice")
				p.write(tt.msg)
				p.end()
				synctest.Wait()
				outcome := "bad_auth"
				if tt.name == "expired" {
					outcome = "expired"
				}
				if got := c.value(t, "relay_handshakes_total", "outcome", outcome); got != 1 {
					t.Errorf("%s is %v, want 1", outcome, got)
				}
				connect(t, r, "alice") // and the relay is well
			})
		})
	}
	t.Run("nothing for 10 s", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			meter, c := counted(t)
			r := newRelay(t, meter)
			p := dial(t, r, "alice")
			p.end()
			synctest.Wait()
			if got := c.value(t, "relay_handshakes_total", "outcome", "timeout"); got != 1 {
				t.Errorf("timeout is %v, want 1", got)
			}
		})
	})
}

func TestLaterMessages(t *testing.T) {
	alice := messages.HashID("alice")
	auth, err := messages.AppendAuth(nil, alice, auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	header := func(version, typ byte) []byte { return []byte{version, typ} }
	tests := []struct {
		name  string
		msg   []byte
		stays bool
	}{
		{"empty", nil, false},
		{"one byte", []byte{1}, false},
		{"version 0", header(0, 5), false},
		{"version 2", header(2, 5), false},
		{"type 0", header(1, 0), false},
		{"Hello", header(1, 1), false},
		{"HelloResponse", header(1, 2), false},
		{"AuthResponse", header(1, 7), false},
		{"PeersOnline", header(1, 10), false},
		{"PeersWentOffline", header(1, 11), false},
		{"type 12", header(1, 12), false},
		{"type 255", header(1, 255), false},
		{"Close", messages.AppendClose(nil), false},
		{"8821 bytes", append(messages.AppendTransport(nil, alice, make([]byte, messages.MaxPayloadSize)), 0), false},
		{"Auth again", auth, true},
		{"Auth again, empty", header(1, 6), true},
		{"HealthCheck unasked", messages.AppendHealthCheck(nil), true},
		{"Transport without an id", header(1, 3), true},
		{"Transport of 37 bytes", make37(), true},
		{"Transport to nobody", messages.AppendTransport(nil, messages.HashID("nobody"), []byte("x")), true},
		{"Subscribe to nothing", header(1, 8), true},
		{"Subscribe, 35 bytes", append(header(1, 8), make([]byte, 35)...), true},
		{"Unsubscribe, 37 bytes", append(header(1, 9), make([]byte, 37)...), true},
		{"Unsubscribe from nothing", header(1, 9), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				meter, c := counted(t)
				r := newRelay(t, meter)
				p, other := connect(t, r, "alice"), connect(t, r, "other")
				p.write(tt.msg)
				if tt.stays {
					p.send(p, "still here")
					p.expect(from(p, "still here"))
				} else {
					p.end()
				}
				other.send(other, "not my business")
				other.expect(from(other, "not my business"))
				synctest.Wait()
				c.balance(t)
			})
		})
	}
}

func make37() []byte {
	msg := messages.AppendTransport(nil, messages.HashID("alice"), nil)
	return msg[:37]
}

func TestEveryMessageHasOneFate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter, func(c *relay.Config) { c.Limits.QueueMessages = 5 })
		a, slow, gone := connect(t, r, "a"), connect(t, r, "slow"), connect(t, r, "gone")
		for i := range 30 {
			a.send(slow, fmt.Sprint(i))
			synctest.Wait()
		}
		if got, want := c.dropped(t, "queue_full"), 30-pipeDepth-5; got != want {
			t.Errorf("queue_full is %d, want %d", got, want)
		}
		c.balance(t)
		for i := range pipeDepth + 3 {
			a.send(gone, fmt.Sprint(i))
			synctest.Wait()
		}
		_ = gone.Close()
		synctest.Wait()
		if got := c.dropped(t, "peer_gone"); got != 3 {
			t.Errorf("peer_gone is %d, want the 3 that were queued or being written", got)
		}
		a.send(gone, "late")
		synctest.Wait()
		if got := c.dropped(t, "no_peer"); got != 1 {
			t.Errorf("no_peer is %d, want 1", got)
		}
		c.balance(t)
		time.Sleep(15 * time.Second) // slow takes nothing and is closed
		if got := c.value(t, "relay_peers_stalled_total"); got != 1 {
			t.Errorf("stalled peers: %v, want 1", got)
		}
		c.balance(t)
		if got := c.value(t, "relay_messages_queued"); got != 0 {
			t.Errorf("%v messages are still queued", got)
		}
	})
}

func TestPresenceAroundData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		sub, x, y := connect(t, r, "sub"), connect(t, r, "x"), connect(t, r, "y")
		sub.subscribe(x.id)
		sub.expect(online(x.id))

		// sub does not read: its socket fills, then its queue.
		for i := range pipeDepth + 4 {
			x.send(sub, fmt.Sprint(i))
			synctest.Wait()
		}
		_ = x.Close()
		synctest.Wait()
		late := messages.HashID("late")
		sub.subscribe(y.id, late)
		synctest.Wait()
		// What was written or being written is ahead; then the news of y;
		// then x's data; then that x has left.
		for i := range pipeDepth + 1 {
			sub.expect(from(x, fmt.Sprint(i)))
		}
		sub.expect(online(y.id))
		for i := range 3 {
			sub.expect(from(x, fmt.Sprint(pipeDepth+1+i)))
		}
		sub.expect(offline(x.id))
	})
}

func TestOfflineThenOnlineBehindDataIsOnlineOnly(t *testing.T) { // B4
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		sub, x := connect(t, r, "sub"), connect(t, r, "x")
		sub.subscribe(x.id)
		sub.expect(online(x.id))
		sub.subscribe(x.id) // wants the next online as well
		sub.expect(online(x.id))
		for i := range pipeDepth + 3 {
			x.send(sub, fmt.Sprint(i))
			synctest.Wait()
		}
		_ = x.Close()
		synctest.Wait()
		again := connect(t, r, "x")
		synctest.Wait()
		for i := range pipeDepth + 1 {
			sub.expect(from(x, fmt.Sprint(i)))
		}
		sub.expect(online(x.id), from(x, fmt.Sprint(pipeDepth+1)), from(x, fmt.Sprint(pipeDepth+2)))
		again.send(sub, "new")
		sub.expect(from(again, "new")) // and no offline in between
	})
}

func TestReplacingAPeerThatDoesNotRead(t *testing.T) { // B1
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		a, stuck := connect(t, r, "a"), connect(t, r, "stuck")
		for i := range 50 {
			a.send(stuck, fmt.Sprint(i))
		}
		synctest.Wait()
		start := time.Now()
		newer := connect(t, r, "stuck")
		a.send(newer, "hello")
		newer.expect(from(a, "hello"))
		if took := time.Since(start); took != 0 {
			t.Errorf("replacing a peer that does not read took %v", took)
		}
	})
}

func TestPeerLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter, func(c *relay.Config) { c.Limits.MaxPeers = 2 })
		alice := connect(t, r, "alice")
		connect(t, r, "bob")
		late := dial(t, r, "carol")
		late.auth(secret)
		late.end()
		synctest.Wait()
		if got := c.value(t, "relay_handshakes_total", "outcome", "limit"); got != 1 {
			t.Errorf("outcome limit is %v, want 1", got)
		}
		connect(t, r, "alice") // replaces itself
		alice.end()
		synctest.Wait()
		_ = alice.Close()
		// However often: no older connection is kept where there is no room.
		for range 10 {
			connect(t, r, "alice")
			connect(t, r, "bob")
			synctest.Wait()
			if got := c.value(t, "relay_peers"); got != 2 {
				t.Fatalf("relay_peers is %v, want 2", got)
			}
		}
	})
}

func TestSubscriptionLimit(t *testing.T) { // B11
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter, func(c *relay.Config) { c.Limits.SubscriptionsPerPeer = 10 })
		flooder := connect(t, r, "flooder")
		for i := range 5 {
			var ids []messages.PeerID
			for j := range messages.MaxPeersPerList {
				ids = append(ids, messages.HashID(fmt.Sprint(i, j)))
			}
			flooder.subscribe(ids...)
		}
		flooder.send(flooder, "alive")
		flooder.expect(from(flooder, "alive"))
		synctest.Wait()
		if got, want := c.value(t, "relay_subscriptions_refused_total"), float64(5*messages.MaxPeersPerList-10); got != want {
			t.Errorf("refused %v ids, want %v", got, want)
		}
	})
}

func TestRateLimitSlowsAndDropsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter, func(c *relay.Config) { c.Limits.MessagesPerSecond = 10 })
		fast, to := connect(t, r, "fast"), connect(t, r, "to")
		start := time.Now()
		go func() {
			for i := range 100 {
				if _, err := fast.Write(messages.AppendTransport(nil, to.id, []byte(fmt.Sprint(i)))); err != nil {
					return
				}
			}
		}()
		for i := range 100 {
			to.expect(from(fast, fmt.Sprint(i)))
			to.write(messages.AppendHealthCheck(nil))
		}
		if took := time.Since(start); took < 8*time.Second || took > 11*time.Second {
			t.Errorf("100 messages at 10 per second took %v", took)
		}
		synctest.Wait()
		if got := c.value(t, "relay_messages_dropped_total"); got != 0 {
			t.Errorf("%v messages dropped", got)
		}
		if c.value(t, "relay_peer_throttled_seconds_total") == 0 {
			t.Error("no throttling was counted")
		}
	})
}

// What the carrier has beside messages is read as slowly as they are.
func TestRateLimitCountsEveryFrame(t *testing.T) {
	const frames = 8000
	ping := frame(0x89, 125, make([]byte, 125))
	for _, test := range []struct {
		name         string
		first, other []byte
		last         byte // first byte of the frame that ends it
	}{
		{"pings", nil, ping, 0x82},
		{"pongs", nil, frame(0x8a, 125, make([]byte, 125)), 0x82},
		{"empty fragments", frame(0x02, 0, nil), frame(0x00, 0, nil), 0x80},
		{"pings between fragments", frame(0x02, 0, nil), ping, 0x80},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := memnet.New(memnet.Config{})
				ln, err := network.Host("pod").Listen("tcp", ":80")
				if err != nil {
					t.Fatal(err)
				}
				s, err := relay.NewServer(relay.Config{
					ExposedAddress: "pod:80", AuthValidator: auth.NewValidator(secret),
					Limits: relay.Limits{MessagesPerSecond: 1000, BytesPerSecond: 100_000},
				})
				if err != nil {
					t.Fatal(err)
				}
				served := make(chan error, 1)
				go func() { served <- s.Listen(relay.ListenerConfig{Listener: ln}) }()
				conn, err := network.Host("peer").Dial(t.Context(), "tcp", "pod:80")
				if err != nil {
					t.Fatal(err)
				}
				id := messages.HashID("alice")
				hello, err := messages.AppendAuth(nil, id, auth.Issue(secret, time.Now().Add(time.Hour)))
				if err != nil {
					t.Fatal(err)
				}
				marker := messages.AppendTransport(nil, id, []byte("behind all of them"))
				start := time.Now()
				go func() {
					_, _ = conn.Write(slices.Concat([]byte(upgradeRequest), maskedFrame(hello), test.first,
						bytes.Repeat(test.other, frames), frame(test.last, len(marker), marker)))
				}()
				var got []byte
				for b := make([]byte, 4<<10); !bytes.Contains(got, []byte("behind all of them")); {
					n, err := conn.Read(b)
					if err != nil {
						t.Fatal(err)
					}
					got = append(got, b[:n]...)
				}
				if took := time.Since(start); took < 5*time.Second {
					t.Errorf("%d frames were read within %v, with a limit of 1,000 a second and 100 kB", frames, took)
				}
				_ = conn.Close()
				if err := errors.Join(s.Close(), <-served); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// forwarder is a fabric that keeps what it is given.
type forwarder struct {
	mu  sync.Mutex
	got map[messages.PeerID][]string
	err error
}

func (f *forwarder) Forward(_ context.Context, dst messages.PeerID, msg []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if f.got == nil {
		f.got = make(map[messages.PeerID][]string)
	}
	f.got[dst] = append(f.got[dst], string(msg))
	return nil
}

func (f *forwarder) Locate(context.Context, messages.PeerID) (string, bool) { return "", false }

func TestMissGoesToTheForwarder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		f := &forwarder{}
		r := newRelay(t, meter, func(c *relay.Config) { c.CrossPodForwarder = f })
		a, b := connect(t, r, "a"), connect(t, r, "b")
		away := messages.HashID("away")
		a.write(messages.AppendTransport(nil, away, []byte("far")))
		a.send(b, "near")
		b.expect(from(a, "near"))
		synctest.Wait()
		if got := f.got[away]; len(got) != 1 || got[0] != string(from(a, "far")) {
			t.Errorf("forwarder got %q, want the message with its source", got)
		}
		if len(f.got) != 1 {
			t.Error("a message for a local peer was forwarded")
		}
		for err, reason := range map[error]string{
			errors.New("shrug"):  "forward",
			cluster.ErrNoOwner:   "no_peer",
			cluster.ErrQueueFull: "link_full",
			cluster.ErrNoLink:    "no_link",
			cluster.ErrStopped:   "fabric_stopped",
		} {
			f.mu.Lock()
			f.err = fmt.Errorf("forward: %w", err)
			f.mu.Unlock()
			a.write(messages.AppendTransport(nil, away, []byte("far")))
			synctest.Wait()
			if got := c.dropped(t, reason); got != 1 {
				t.Errorf("%d dropped as %s, want 1", got, reason)
			}
		}
	})
}

func TestTypedNilForwarderIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, c := counted(t)
		r := newRelay(t, meter)
		for i, none := range []relay.CrossPodForwarder{nil, (*cluster.Forwarder)(nil), (*forwarder)(nil)} {
			r.SetCrossPodForwarder(none)
			a := connect(t, r, fmt.Sprint("a", i))
			a.write(messages.AppendTransport(nil, messages.HashID("away"), nil))
			a.send(a, "alive")
			a.expect(from(a, "alive"))
			synctest.Wait()
			if got := c.dropped(t, "no_peer"); got != i+1 {
				t.Errorf("%T: no_peer is %d, want %d", none, got, i+1)
			}
		}
	})
}

func TestDispatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		a, b := connect(t, r, "a"), connect(t, r, "b")
		d := relay.NewLocalPeerDispatcher(r.Store())
		away := messages.HashID("away")
		if !d.HasPeer(b.id) || d.HasPeer(away) {
			t.Error("HasPeer does not know who is here")
		}
		if err := d.DispatchToLocal(b.id, from(a, "x")); err != nil {
			t.Error(err)
		}
		b.expect(from(a, "x"))
		if err := d.DispatchToLocal(away, from(a, "x")); !errors.Is(err, relay.ErrLocalPeerGone) {
			t.Errorf("dispatch to a peer that is not here: %v", err)
		}
		for _, bad := range [][]byte{nil, from(a, "x")[:37], messages.AppendHealthCheck(nil), append(from(a, string(make([]byte, messages.MaxPayloadSize))), 0)} {
			if err := d.DispatchToLocal(b.id, bad); err == nil {
				t.Errorf("a message of %d bytes was dispatched", len(bad))
			}
		}
	})
}

func TestConfigErrors(t *testing.T) {
	v := auth.NewValidator(secret)
	tests := []struct {
		name string
		cfg  relay.Config
		url  string
	}{
		{"no address", relay.Config{AuthValidator: v}, ""},
		{"no validator", relay.Config{ExposedAddress: "a:1"}, ""},
		{"scheme", relay.Config{ExposedAddress: "https://a:1", AuthValidator: v}, ""},
		{"plain with a certificate", relay.Config{ExposedAddress: "rel://a:1", TLSSupport: true, AuthValidator: v}, ""},
		{"no host", relay.Config{ExposedAddress: "rel://:1", AuthValidator: v}, ""},
		{"port too high", relay.Config{ExposedAddress: "a:65536", AuthValidator: v}, ""},
		{"port zero", relay.Config{ExposedAddress: "a:0", AuthValidator: v}, ""},
		{"IPv6 without brackets", relay.Config{ExposedAddress: "2001:db8::1", AuthValidator: v}, ""},
		{"user", relay.Config{ExposedAddress: "rels://user:password@a:1", AuthValidator: v}, ""},
		{"query", relay.Config{ExposedAddress: "rels://a?x=1", AuthValidator: v}, ""},
		{"one slash", relay.Config{ExposedAddress: "rels:/a", AuthValidator: v}, ""},
		{"no port behind the colon", relay.Config{ExposedAddress: "a:", AuthValidator: v}, ""},
		{"no name", relay.Config{ExposedAddress: "rels://a,b:443", AuthValidator: v}, ""},
		{"scheme in upper case", relay.Config{ExposedAddress: "RELS://A.example:443", AuthValidator: v}, "rels://A.example:443"},
		{"IPv6", relay.Config{ExposedAddress: "[2001:db8::1]:443", AuthValidator: v}, "rel://[2001:db8::1]:443"},
		{"no port", relay.Config{ExposedAddress: "a", AuthValidator: v}, "rel://a"},
		{"negative limit", relay.Config{ExposedAddress: "a:1", AuthValidator: v, Limits: relay.Limits{QueueMessages: -1}}, ""},
		{"health checks without pause", relay.Config{ExposedAddress: "a:1", AuthValidator: v, Limits: relay.Limits{HealthCheckInterval: time.Microsecond}}, ""},
		{"queue too small", relay.Config{ExposedAddress: "a:1", AuthValidator: v, Limits: relay.Limits{QueueBytes: 100}}, ""},
		{"plain", relay.Config{ExposedAddress: "a:1", AuthValidator: v}, "rel://a:1"},
		{"TLS", relay.Config{ExposedAddress: "a:1", TLSSupport: true, AuthValidator: v}, "rels://a:1"},
		{"kept as typed", relay.Config{ExposedAddress: "rels://A.example:443/x/", AuthValidator: v}, "rels://A.example:443/x/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := relay.NewRelay(tt.cfg)
			if tt.url == "" {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := s.InstanceURL(); got != tt.url {
				t.Errorf("InstanceURL = %q, want %q", got, tt.url)
			}
		})
	}
}

// listenerConn is a conn of a listener: late says that the listener has given it
// up before it was established.
type listenerConn struct {
	*msgConn
	late bool
}

var _ listener.Conn = (*listenerConn)(nil)

func (c *listenerConn) NextMessage() ([]byte, bool, error) {
	buf := make([]byte, 64<<10)
	n, err := c.Read(buf)
	return buf[:n], false, err
}

func (c *listenerConn) AppendMessage(dst, head, body []byte) []byte {
	return append(append(dst, head...), body...)
}

func (c *listenerConn) WriteBatch(b []byte) (int, error) { return c.Write(b) }
func (c *listenerConn) TryWriteBatch([]byte) (listener.Attempt, error) {
	return listener.Untouched, nil
}
func (c *listenerConn) Established() bool       { return !c.late }
func (c *listenerConn) Failed(listener.Outcome) { _ = c.Close() }

func TestConnGivenUpByItsListenerReplacesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		older, other := connect(t, r, "alice"), connect(t, r, "other")
		client, server := msgPipe(pipeDepth)
		go r.Accept(&listenerConn{server, true})
		late := &peer{t, older.id, client}
		late.auth(secret)
		late.end()
		other.send(older, "still you")
		older.expect(from(other, "still you"))
	})
}

// unanswered is a peer whose AuthResponse is being written: it takes it only as it
// reads.
func unanswered(t *testing.T, r *relay.Relay, name string) *peer {
	t.Helper()
	client, server := msgPipe(0)
	go r.Accept(server)
	t.Cleanup(func() { _ = client.Close() })
	p := &peer{t, messages.HashID(name), client}
	p.auth(secret)
	synctest.Wait()
	return p
}

func TestPeerIsReachableBeforeItIsAnswered(t *testing.T) {
	for _, older := range []bool{false, true} {
		t.Run(fmt.Sprintf("replaces=%t", older), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRelay(t)
				sender, watcher := connect(t, r, "sender"), connect(t, r, "watcher")
				if older {
					connect(t, r, "alice")
					time.Sleep(10 * time.Second)
				}
				watcher.subscribe(messages.HashID("alice"))
				synctest.Wait()
				if older {
					watcher.expect(online(messages.HashID("alice")))
				}
				alice := unanswered(t, r, "alice")
				sender.send(alice, "first")
				sender.send(alice, "second")
				synctest.Wait()
				if _, err := messages.ParseAuthResponse(alice.next()); err != nil {
					t.Fatal(err)
				}
				alice.expect(from(sender, "first"), from(sender, "second"))
				watcher.expect(online(alice.id))
			})
		})
	}
}

func TestPeerThatCannotBeAnsweredLeavesNothing(t *testing.T) {
	for _, test := range []struct {
		name string
		age  time.Duration // of an older connection; 0: there is none
	}{{"alone", 0}, {"beside a young connection", time.Second}, {"beside an old connection", 10 * time.Second}} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRelay(t)
				watcher := connect(t, r, "watcher")
				id := messages.HashID("alice")
				watcher.subscribe(id)
				synctest.Wait()
				var older *peer
				if test.age > 0 {
					older = connect(t, r, "alice")
					watcher.expect(online(id))
					time.Sleep(test.age)
				}
				late := unanswered(t, r, "alice")
				_ = late.Close()
				synctest.Wait()
				if older == nil {
					if _, here := r.Store().Peer(id); here {
						t.Error("a peer that was not answered is in the store")
					}
				} else {
					watcher.send(older, "still you")
					older.expect(from(watcher, "still you"))
				}
				watcher.send(watcher, "no notice before this")
				watcher.expect(from(watcher, "no notice before this"))
			})
		})
	}
}

func TestListenerThatKeepsNoLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRelay(t)
		client, server := msgPipe(pipeDepth)
		go r.Accept(&listenerConn{server, false})
		p := &peer{t, messages.HashID("alice"), client}
		p.auth(secret)
		p.next()
		p.write(messages.AppendTransport(nil, p.id, make([]byte, messages.MaxPayloadSize+1)))
		p.end()
	})
}

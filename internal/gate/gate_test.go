package gate_test

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/internal/gate"
)

var a, b = netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("2001:db8::/64")

// TestWhoGives: the places that are taken back, and that each of them ends once.
func TestWhoGives(t *testing.T) {
	always := func(n int) func() int { return func() int { return n } }
	for _, test := range []struct {
		name    string
		cfg     gate.Config
		arrives []netip.Prefix
		left    []int // arrivals that give their place up themselves, at once
		want    []int // arrivals whose place is taken back for others
	}{
		{"the oldest", gate.Config{Places: 3}, []netip.Prefix{a, b, b, a, a}, nil, []int{0, 1}},
		{"no one while there is room", gate.Config{Places: 3}, []netip.Prefix{a, b, b, a, a}, []int{1, 3}, nil},
		{"the oldest of the busiest", gate.Config{Places: 3, Busiest: true}, []netip.Prefix{a, b, b, a, a, a}, nil, []int{1, 0, 3}},
		{"a source that left is not busy", gate.Config{Places: 3, Busiest: true}, []netip.Prefix{b, b, a, a, a}, []int{0, 1}, nil},
		{"less room", gate.Config{Places: 3, Room: always(2)}, []netip.Prefix{a, b, b}, nil, []int{0}},
		{"no room is one place", gate.Config{Places: 3, Room: always(-1)}, []netip.Prefix{a, b}, nil, []int{0}},
		{"more room than places", gate.Config{Places: 3, Room: always(9)}, []netip.Prefix{a, b, b, a}, nil, []int{0}},
	} {
		t.Run(test.name, func(t *testing.T) {
			g := gate.New(test.cfg)
			places := make([]gate.Place, len(test.arrives))
			var taken []int
			for i, source := range test.arrives {
				if !g.Enter(&places[i], source, func(why gate.Reason) {
					if why == gate.Evicted {
						taken = append(taken, i)
					}
				}) {
					t.Fatal("not let in")
				}
				if slices.Contains(test.left, i) && (!places[i].Leave() || places[i].Leave()) {
					t.Error("a place was not given up once")
				}
			}
			if !slices.Equal(taken, test.want) {
				t.Errorf("places taken back: %v, want %v", taken, test.want)
			}
			if n := len(test.arrives) - len(taken) - len(test.left); g.Len() != n {
				t.Errorf("%d places held, want %d", g.Len(), n)
			}
			g.Close()
			if g.Held() > 0 {
				t.Error("it remembers sources that have left")
			}
			for i := range places {
				if places[i].Leave() {
					t.Errorf("place %d outlived the gate", i)
				}
			}
		})
	}
}

func TestFailuresAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := gate.New(gate.Config{Places: 1, FailuresPerSecond: 2, FailureBurst: 3})
		defer g.Close()
		var p gate.Place
		g.Enter(&p, a, func(gate.Reason) {})
		for i := range 3 {
			if g.Refuses(a) {
				t.Fatalf("refused after %d failures", i)
			}
			p.Fail(gate.Failure)
		}
		if !g.Refuses(a) || g.Refuses(b) || g.Refuses(netip.Prefix{}) {
			t.Error("not just the source that failed is refused")
		}
		time.Sleep(499 * time.Millisecond)
		if !p.SetSource(b) || p.SetSource(a) {
			t.Error("a place moved to a source that is refused, or could not move to another")
		}
		time.Sleep(time.Millisecond)
		if g.Refuses(a) {
			t.Error("still refused when one failure is forgotten")
		}
	})
}

func TestSource(t *testing.T) {
	for _, test := range []struct{ addr, want string }{
		{"192.0.2.1:5", "192.0.2.1/32"},
		{"[::ffff:192.0.2.1]:5", "192.0.2.1/32"},
		{"[2001:db8:1:2:3:4:5:6]:5", "2001:db8:1:2::/64"},
		{"[fe80::1%eth0]:5", "fe80::/64"},
	} {
		ap := netip.MustParseAddrPort(test.addr)
		for _, addr := range []net.Addr{net.TCPAddrFromAddrPort(ap), net.UDPAddrFromAddrPort(ap)} {
			if got := gate.Source(gate.AddrPort(addr).Addr()); got.String() != test.want {
				t.Errorf("source of %s = %v, want %s", test.addr, got, test.want)
			}
		}
	}
	for _, addr := range []net.Addr{nil, &net.UnixAddr{}} {
		if got := gate.Source(gate.AddrPort(addr).Addr()); got.IsValid() {
			t.Error(got)
		}
	}
}

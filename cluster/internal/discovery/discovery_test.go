package discovery

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/nolink"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// fakeDialer is the transport as a Discovery sees it.
type fakeDialer struct {
	err   error
	dials []time.Time
	links map[netip.AddrPort]bool
	self  netip.AddrPort
}

func (f *fakeDialer) Dial(context.Context, netip.AddrPort) error {
	f.dials = append(f.dials, time.Now())
	return f.err
}
func (f *fakeDialer) Standing(addr netip.AddrPort) Standing {
	return Standing{Linked: f.links[addr], Self: addr == f.self, Own: addr == f.self}
}
func (f *fakeDialer) Sessions() (int, bool, bool) {
	return len(f.links), len(f.links) > 0, true
}
func (f *fakeDialer) Told() []netip.AddrPort    { return nil }
func (f *fakeDialer) Named([]netip.AddrPort)    {}
func (f *fakeDialer) Complain([]wire.Complaint) {}

// fakeResolver answers what its function does.
type fakeResolver func(context.Context) ([]string, error)

func (f fakeResolver) Resolve(ctx context.Context) ([]string, error) { return f(ctx) }
func (f fakeResolver) String() string                                { return "fake" }

// TestRefusedUntilAnswered: a pod that was refused by all others is not ready when
// its dials succeed at the same time, before the others can refuse it again.
func TestRefusedUntilAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := netip.MustParseAddrPort("10.0.0.2:7090")
		f := &fakeDialer{err: nolink.ErrTaken(pod)}
		d := New(fakeResolver(func(context.Context) ([]string, error) {
			return []string{pod.String()}, nil
		}), 0, f, slog.New(slog.DiscardHandler))
		d.Start()
		defer d.Stop()
		time.Sleep(2 * ReadyWait)
		synctest.Wait()
		f.err = nil
		before := len(f.dials)
		d.LinksChanged(false)
		time.Sleep(2 * LongestRefused)
		synctest.Wait()
		if len(f.dials) == before || d.IsReady() {
			t.Error("ready before another pod has answered")
		}
	})
}

// TestPaceOfDials: the first dials come soon after each other and then ever more
// rarely, those to a pod that refuses more rarely still, and none at once.
func TestPaceOfDials(t *testing.T) {
	for _, tt := range []struct {
		err         error
		least, most int // dials in a minute
	}{
		{errors.New("no route"), 55, 80},
		{nolink.ErrTaken(netip.AddrPort{}), 13, 25},
		{nil, 55, 80}, // it linked and the link was gone before anybody looked
	} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeDialer{err: tt.err}
			d := New(fakeResolver(func(context.Context) ([]string, error) {
				return []string{"10.0.0.2:7090"}, nil
			}), 0, f, slog.New(slog.DiscardHandler))
			d.Start()
			time.Sleep(time.Minute)
			d.Stop()
			if n := len(f.dials); n < tt.least || n > tt.most {
				t.Errorf("%v: %d dials in a minute", tt.err, n)
			}
			if second := f.dials[1].Sub(f.dials[0]); second < soonest/2 || second > 2*soonest {
				t.Errorf("%v: the second dial came after %v", tt.err, second)
			}
		})
	}
}

// TestPaceOfResolutions: often after the start and after a loss, then at the
// interval; one that hangs is given up.
func TestPaceOfResolutions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int64
		var hang atomic.Bool
		d := New(fakeResolver(func(ctx context.Context) ([]string, error) {
			asked.Add(1)
			if hang.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return nil, nil
		}), 0, &fakeDialer{}, slog.New(slog.DiscardHandler))
		d.Start()
		time.Sleep(10 * time.Second)
		if n := asked.Load(); n < 5 || n > 9 {
			t.Errorf("asked %d times in the first 10 s", n)
		}
		time.Sleep(time.Minute)
		before := asked.Load()
		time.Sleep(10 * time.Minute)
		if n := asked.Load() - before; n < 50 || n > 75 {
			t.Errorf("asked %d times in 10 minutes", n)
		}
		before = asked.Load()
		d.LinksChanged(true)
		time.Sleep(time.Second + time.Millisecond)
		if n := asked.Load() - before; n < 1 {
			t.Error("not asked after a link was lost")
		}
		for range 1000 {
			d.LinksChanged(true)
			time.Sleep(time.Millisecond)
		}
		if n := asked.Load() - before; n > 6 {
			t.Errorf("asked %d times in 2 s of losses", n)
		}
		hang.Store(true)
		time.Sleep(time.Minute)
		if s, _ := d.Status(); !strings.Contains(s.Error, "deadline") {
			t.Errorf("after resolutions that hang: %+v", s)
		}
		d.Stop()
	})
}

// watched is a Watcher whose answer the test sets.
type watched struct {
	fakeResolver
	changed func()
}

func (w *watched) Watch(ctx context.Context, changed func()) {
	w.changed = changed
	<-ctx.Done()
}

// TestWatcher: an answer that changes is asked for at once, however far off the
// next look is, also one that comes during a look; a pod is not ready before the
// answer has it.
func TestWatcher(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		self, other := netip.MustParseAddrPort("10.0.0.1:7090"), netip.MustParseAddrPort("10.0.0.2:7090")
		answer := []string{}
		slow := make(chan struct{})
		close(slow)
		w := &watched{fakeResolver: func(context.Context) ([]string, error) {
			now := answer
			<-slow
			return now, nil
		}}
		f := &fakeDialer{err: errors.New("refused"), self: self}
		d := New(w, 0, f, slog.New(slog.DiscardHandler))
		d.Start()
		defer d.Stop()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if d.IsReady() {
			t.Error("ready without being listed")
		}
		answer = []string{self.String()}
		w.changed()
		synctest.Wait()
		if !d.IsReady() {
			t.Errorf("listed and not ready: %s", d.NotReady())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		slow = make(chan struct{})
		w.changed()
		synctest.Wait() // it is asked
		answer = []string{self.String(), other.String()}
		w.changed()
		close(slow)
		synctest.Wait()
		if len(f.dials) != 1 {
			t.Errorf("%d dials of a pod that has just come, want 1", len(f.dials))
		}
		if s, _ := d.Status(); !s.Watched || len(s.Addresses) != 2 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestSplitPod(t *testing.T) {
	for _, tt := range []struct {
		text, host string
		port       uint16 // 0: an error
	}{
		{"10.0.0.7", "10.0.0.7", 7090},
		{"10.0.0.7:80", "10.0.0.7", 80},
		{"fd00::7", "fd00::7", 7090},
		{"[fd00::7]", "fd00::7", 7090},
		{"[fd00::7]:80", "fd00::7", 80},
		{"FD00:0::7", "fd00::7", 7090},
		{"relay.default.svc", "relay.default.svc", 7090},
		{"relay.default.svc:80", "relay.default.svc", 80},
		{"", "", 0},
		{":80", "", 0},
		{"relay:", "", 0},
		{"relay:http", "", 0},
		{"relay:0", "", 0},
		{"relay:65536", "", 0},
		{"relay:-1", "", 0},
		{"a b", "", 0},
		{"a;b", "", 0},
		{"http://relay", "", 0},
		{"fd00::7:99999", "", 0},
		{"[::1", "", 0},
		{"::1]", "", 0},
		{"[10.0.0.7", "", 0},
		{"[[::1]]", "", 0},
		{"[::1]]:80", "", 0},
		{"[relay]", "", 0},
	} {
		host, port, err := splitPod(tt.text, 7090)
		if (err != nil) != (tt.port == 0) || err == nil && (host != tt.host || port != tt.port) {
			t.Errorf("splitPod(%q) = %q, %d, %v", tt.text, host, port, err)
		}
	}
}

func TestNames(t *testing.T) {
	r, err := Names("", []string{"10.0.0.7", "pod-b:80", "[::ffff:10.0.0.7]:7090", "pod-c"}, 7090, nil)
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{"pod-b": {"fd00::b", "::ffff:10.0.0.11"}, "pod-c": {"10.0.0.12"}}
	r.(*names).lookup = func(_ context.Context, _, host string) (ips []netip.Addr, err error) {
		if known[host] == nil {
			return nil, &net.DNSError{Name: host, IsNotFound: true}
		}
		for _, text := range known[host] {
			ips = append(ips, netip.MustParseAddr(text))
		}
		return ips, nil
	}
	all := []string{"10.0.0.11:80", "10.0.0.12:7090", "10.0.0.7:7090", "[fd00::b]:80"}
	if got, err := r.Resolve(t.Context()); err != nil || !slices.Equal(got, all) {
		t.Errorf("Resolve = %v, %v, want %v", got, err, all)
	}
	known["pod-b"] = nil
	if got, err := r.Resolve(t.Context()); err == nil || !slices.Equal(got, all) {
		t.Errorf("Resolve with a name that is lost = %v, %v, want %v and an error", got, err, all)
	}
	if r.String() != "static" {
		t.Error(r)
	}
	for _, c := range [][]string{{""}, {"", ":"}, {"a b"}} {
		if _, err := Names(c[0], c[1:], 7090, nil); err == nil {
			t.Errorf("Names(%q) takes it", c)
		}
	}
	if r, err := Names("relay.svc", nil, 99, nil); err != nil || r.String() != "relay.svc" {
		t.Errorf("Names = %v, %v", r, err)
	}
}

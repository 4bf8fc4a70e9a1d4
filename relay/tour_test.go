package relay_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// watch notes the functions that are on the stack where two pods call what is around
// them: sockets, the validator of tokens, and the budget of a queue that is pushed into.
type watch struct {
	mu   sync.Mutex
	seen map[string]bool // as "relay.(*Peer).route"
}

func (w *watch) here() {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	w.mu.Lock()
	defer w.mu.Unlock()
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		w.seen[f.Function[strings.LastIndex(f.Function, "/")+1:]] = true
	}
}

type watchedListener struct {
	net.Listener
	w *watch
}

func (l watchedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	l.w.here()
	return watchedConn{c, l.w}, err
}

type watchedConn struct {
	net.Conn
	w *watch
}

func (c watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.w.here()
	return n, err
}

func (c watchedConn) Write(b []byte) (int, error) {
	c.w.here()
	return c.Conn.Write(b)
}

type watchedValidator struct {
	*auth.Validator
	w *watch
}

func (v watchedValidator) Validate(token any) error {
	v.w.here()
	return v.Validator.Validate(token)
}

// holder holds all of a budget until the next push makes it yield.
type holder struct {
	*budget.Budget
	w     *watch
	taken int
}

func hold(b *budget.Budget, w *watch) {
	h := &holder{Budget: b, w: w}
	for b.Take(budget.Small) {
		h.taken += budget.Small
	}
	b.Note(h, budget.Share{Chunks: 1 << 20})
}

func (h *holder) Fail() {}

func (h *holder) Yield() {
	h.w.here()
	h.Note(h, budget.Share{})
	h.Give(h.taken)
}

var stop = regexp.MustCompile("\\[`(\\w+\\.(?:\\(\\*(\\w+)\\)\\.)?(\\w+))`\\]\\(([^)]+)\\)")

// Each function that "Follow one message" of the README names is on the stack when a
// message goes from a peer of one pod to a peer of another, and is in the file that the
// README links to.
func TestReadmeFollowsAMessage(t *testing.T) {
	w := &watch{seen: make(map[string]bool)}
	listen := func() watchedListener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return watchedListener{ln, w}
	}
	links := []watchedListener{listen(), listen()}
	var pods []*relay.Server
	var at []string
	for _, link := range links {
		s, err := relay.NewServer(relay.Config{
			ExposedAddress: "relay.test:80", AuthValidator: watchedValidator{auth.NewValidator(secret), w},
			Limits: relay.Limits{TotalQueueBytes: 8 << 20},
			Cluster: &cluster.Config{
				StaticPeers: []string{links[0].Addr().String(), links[1].Addr().String()},
				PodIP:       "127.0.0.1", ListenAddress: link.Addr().String(), AuthSecret: clusterSecret,
				Listen: func(string, string) (net.Listener, error) { return link, nil },
				Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
					c, err := new(net.Dialer).DialContext(ctx, network, address)
					return watchedConn{c, w}, err
				},
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		ln := listen()
		go func() { _ = s.Listen(relay.ListenerConfig{Listener: ln}) }()
		pods, at = append(pods, s), append(at, ln.Addr().String())
	}
	for _, s := range pods {
		if err := s.WaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	bob := connectRaw(t, at[1], "bob")
	hello := maskedFrame(messages.AppendTransport(nil, bob.id, []byte("hello")))
	send := func(from *rawPeer) {
		from.write(hello)
		bob.readFull(len(hello) - 4) // a frame to a client has no mask
	}
	send(connectRaw(t, at[0], "carol")) // it waits while bob is looked up
	w.mu.Lock()
	clear(w.seen)
	w.mu.Unlock()
	alice := connectRaw(t, at[0], "alice")
	for _, s := range pods {
		hold(relay.BudgetOf(s), w)
	}
	send(alice)

	readme, err := os.ReadFile(filepath.Join("..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, tour, _ := strings.Cut(string(readme), "\n## Follow one message\n")
	tour, _, _ = strings.Cut(tour, "\n## ")
	stops := stop.FindAllStringSubmatch(tour, -1)
	if len(stops) < 10 {
		t.Errorf("the README names %d functions", len(stops))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range stops {
		name, receiver, function, file := s[1], s[2], s[3], s[4]
		if !w.seen[name] {
			t.Errorf("%s is on no stack of the message", name)
		}
		if text, err := os.ReadFile(filepath.Join("..", file)); err != nil || !strings.Contains(string(text), "*"+receiver+") "+function+"(") {
			t.Errorf("%s is not in %s", name, file)
		}
	}
}

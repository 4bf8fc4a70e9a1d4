package endpointslices_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/internal/endpointslices"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/internal/test/testcert"
)

// api is an API server with the slices of one Service.
type api struct {
	t    *testing.T
	net  *memnet.Network
	cert testcert.Cert

	mu             sync.Mutex
	slices         map[string]string // by name
	events         []string          // what a watch sends; a version is a number of them
	more           chan struct{}     // closed when there are more
	token          string            // that it accepts
	forbid         string            // verb that it forbids
	lists, watches int               // that there were
}

// newAPI returns one that does not serve yet.
func newAPI(t *testing.T) *api {
	return &api{
		t: t, net: memnet.New(memnet.Config{Latency: time.Millisecond}), cert: testcert.New(t, "api"),
		slices: map[string]string{}, more: make(chan struct{}), token: "first",
	}
}

// serve serves until the test ends, or stop is called.
func (a *api) serve() (stop func()) {
	ln, err := a.net.Host("api").Listen("tcp", ":443")
	if err != nil {
		a.t.Fatal(err)
	}
	server := &http.Server{Handler: a, ErrorLog: log.New(io.Discard, "", 0), TLSConfig: &tls.Config{Certificates: []tls.Certificate{a.cert.Certificate}}}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.ServeTLS(ln, "", "") }) // until Close
	stop = sync.OnceFunc(func() { server.Close(); serving.Wait() })
	a.t.Cleanup(stop)
	return stop
}

// slice returns the JSON of an EndpointSlice with these addresses.
func slice(name, family string, addresses ...string) string {
	var endpoints []string
	for _, address := range addresses {
		// As of a pod that starts or drains.
		endpoints = append(endpoints, fmt.Sprintf(`{"addresses":[%q],"conditions":{"ready":false,"serving":false,"terminating":true}}`, address))
	}
	return fmt.Sprintf(`{"metadata":{"name":%q,"resourceVersion":"1"},"addressType":%q,"endpoints":[%s],"ports":[{"port":1}]}`,
		name, family, strings.Join(endpoints, ","))
}

// event sends one, and has what it says from now on.
func (a *api) event(kind, name, object string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slices[name] = object
	if kind == "DELETED" {
		delete(a.slices, name)
	}
	a.events = append(a.events, fmt.Sprintf(`{"type":%q,"object":%s}`, kind, object))
	close(a.more)
	a.more = make(chan struct{})
}

func (a *api) set(change func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	change()
}

func (a *api) count(of *int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return *of
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	q := r.URL.Query()
	if want := "/apis/discovery.k8s.io/v1/namespaces/prod/endpointslices"; r.URL.Path != want || q.Get("labelSelector") != "kubernetes.io/service-name=pods" {
		a.t.Errorf("asked for %s", r.URL)
	}
	verb := "list"
	if q.Get("watch") != "" {
		verb = "watch"
	}
	switch {
	case r.Header.Get("Authorization") != "Bearer "+a.token:
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"kind":"Status","message":"Unauthorized"}`)
	case verb == a.forbid:
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `{"kind":"Status","message":"cannot %s endpointslices"}`, verb)
	case verb == "list":
		a.lists++
		var all []string
		for _, object := range a.slices {
			all = append(all, object)
		}
		fmt.Fprintf(w, `{"metadata":{"resourceVersion":"%d"},"items":[%s]}`, len(a.events), strings.Join(all, ","))
	default:
		a.watches++
		a.watch(w, r)
	}
}

// watch is called with the lock.
func (a *api) watch(w http.ResponseWriter, r *http.Request) {
	sent, err := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	seconds, err2 := strconv.Atoi(r.URL.Query().Get("timeoutSeconds"))
	if err := errors.Join(err, err2); err != nil {
		a.t.Error(err)
	}
	timeout := time.After(time.Duration(seconds) * time.Second)
	for {
		for ; sent < len(a.events); sent++ {
			fmt.Fprintln(w, a.events[sent])
		}
		_ = http.NewResponseController(w).Flush() // it is noticed below
		more := a.more
		a.mu.Unlock()
		ended := false
		select {
		case <-more:
		case <-timeout:
			ended = true
		case <-r.Context().Done():
			ended = true
		}
		a.mu.Lock()
		if ended {
			return
		}
	}
}

// pod is a Resolver that runs.
type pod struct {
	*endpointslices.Resolver
	folder  string
	changes atomic.Int64
}

// newPod runs one, on a host of its own, until the test ends.
func (a *api) newPod(fallback func(context.Context) ([]string, error)) *pod {
	a.t.Helper()
	p := &pod{folder: a.t.TempDir()}
	cert, _ := a.cert.PEM(a.t)
	p.write(a.t, "ca.crt", string(cert))
	p.write(a.t, "token", "first\n")
	var err error
	p.Resolver, err = endpointslices.New(endpointslices.Config{
		Namespace: "prod", Service: "pods", Port: 7090, Fallback: fallback,
		Server: "api:443", Folder: p.folder, Dial: a.net.Host("pod").Dial,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() { p.Watch(ctx, func() { p.changes.Add(1) }) })
	a.t.Cleanup(func() { cancel(); watching.Wait() })
	return p
}

func (p *pod) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(p.folder, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// expect checks the answer of this moment; failure is a part of its error, "" for
// none.
func (p *pod) expect(t *testing.T, failure string, want ...string) {
	t.Helper()
	got, err := p.Resolve(t.Context())
	if !slices.Equal(got, want) {
		t.Errorf("Resolve = %q, want %q", got, want)
	}
	if failure == "" && err != nil || failure != "" && (err == nil || !strings.Contains(err.Error(), failure)) {
		t.Errorf("Resolve gives the error %v, want %q", err, failure)
	}
}

// TestChanges: each change of the slices is known at once, of all families, and so
// are pods that are not ready or stop.
func TestChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		a.slices["a"] = slice("a", "IPv4", "10.0.0.1", "10.0.0.2")
		a.serve()
		p := a.newPod(nil)
		p.expect(t, "", "10.0.0.1:7090", "10.0.0.2:7090")
		for _, step := range []struct {
			kind, name, object string
			want               []string
		}{
			{"ADDED", "b", slice("b", "IPv6", "fd00::1"), []string{"10.0.0.1:7090", "10.0.0.2:7090", "[fd00::1]:7090"}},
			{"ADDED", "c", slice("c", "IPv4", "10.0.0.2", "10.0.0.3"), []string{"10.0.0.1:7090", "10.0.0.2:7090", "10.0.0.3:7090", "[fd00::1]:7090"}},
			{"MODIFIED", "a", slice("a", "IPv4"), []string{"10.0.0.2:7090", "10.0.0.3:7090", "[fd00::1]:7090"}},
			{"ADDED", "d", slice("d", "FQDN", "pod.example.com"), []string{"10.0.0.2:7090", "10.0.0.3:7090", "[fd00::1]:7090"}},
			{"DELETED", "b", slice("b", "IPv6", "fd00::1"), []string{"10.0.0.2:7090", "10.0.0.3:7090"}},
			{"DELETED", "c", slice("c", "IPv4", "10.0.0.2"), nil},
		} {
			before := p.changes.Load()
			a.event(step.kind, step.name, step.object)
			time.Sleep(10 * time.Millisecond)
			synctest.Wait()
			if p.changes.Load() == before {
				t.Errorf("%s %s is no change", step.kind, step.name)
			}
			p.expect(t, "", step.want...)
		}
		time.Sleep(time.Hour)
		p.expect(t, "")
		if n := a.count(&a.lists); n < 6 || n > 13 {
			t.Errorf("%d lists in an hour, want one with each watch of 5 to 10 minutes", n)
		}
	})
}

// TestAway: while the API is of no use, the fallback is asked and the error says
// why; when it is back, its answer is used again soon.
func TestAway(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		harm       func(a *api, p *pod) (mend func())
	}{
		{"may not list", "list: the API server api:443 answered 403 Forbidden: cannot list endpointslices", func(a *api, _ *pod) func() {
			a.set(func() { a.forbid = "list" })
			return func() { a.set(func() { a.forbid = "" }) }
		}},
		{"may not watch", "watch: the API server api:443 answered 403 Forbidden: cannot watch endpointslices", func(a *api, _ *pod) func() {
			a.set(func() { a.forbid = "watch" })
			return func() { a.set(func() { a.forbid = "" }) }
		}},
		{"token", "answered 401 Unauthorized", func(a *api, p *pod) func() {
			a.set(func() { a.token = "second" })
			return func() { p.write(a.t, "token", "second") }
		}},
		{"no token", "no such file", func(a *api, p *pod) func() {
			os.Remove(filepath.Join(p.folder, "token"))
			return func() { p.write(a.t, "token", "first") }
		}},
		{"CA", "certificate", func(a *api, p *pod) func() {
			cert, _ := testcert.New(a.t, "api").PEM(a.t)
			p.write(a.t, "ca.crt", string(cert))
			return func() { cert, _ := a.cert.PEM(a.t); p.write(a.t, "ca.crt", string(cert)) }
		}},
		{"no CA", "has no certificate", func(a *api, p *pod) func() {
			p.write(a.t, "ca.crt", "")
			return func() { cert, _ := a.cert.PEM(a.t); p.write(a.t, "ca.crt", string(cert)) }
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAPI(t)
				a.slices["a"] = slice("a", "IPv4", "10.0.0.1")
				stop := a.serve()
				p := a.newPod(func(context.Context) ([]string, error) { return []string{"10.0.0.9:7090"}, nil })
				p.expect(t, "", "10.0.0.1:7090")
				mend := tt.harm(a, p)
				p.expect(t, "", "10.0.0.1:7090") // the watch goes on
				before := p.changes.Load()
				stop() // the API server starts again
				a.serve()
				time.Sleep(2 * time.Second)
				p.expect(t, tt.want, "10.0.0.9:7090")
				if p.changes.Load() == before {
					t.Error("the loss is no change")
				}
				time.Sleep(2 * time.Minute)
				if n := p.changes.Load() - before; n > 40 {
					t.Errorf("tried %d times in two minutes", n)
				}
				mend()
				time.Sleep(16 * time.Second)
				p.expect(t, "", "10.0.0.1:7090")
			})
		})
	}
}

// TestPowerCut: a watch of a server that no longer answers ends, and one that
// is not there at the start is found later.
func TestPowerCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		p := a.newPod(nil)
		p.expect(t, "list: ask the API server api:443: ") // refused
		a.slices["a"] = slice("a", "IPv4", "10.0.0.1")
		a.serve()
		time.Sleep(16 * time.Second)
		p.expect(t, "", "10.0.0.1:7090")
		a.net.Partition([]string{"pod"}, []string{"api"})
		time.Sleep(time.Minute)
		p.expect(t, "list: ")
		a.event("ADDED", "b", slice("b", "IPv4", "10.0.0.2"))
		a.net.Heal(memnet.Any, memnet.Any)
		time.Sleep(16 * time.Second)
		p.expect(t, "", "10.0.0.1:7090", "10.0.0.2:7090")
	})
}

// TestExpired: a server that has forgotten the version is asked for a list, and it
// is no failure.
func TestExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		a.serve()
		p := a.newPod(nil)
		p.expect(t, "")
		a.event("ERROR", "a", `{"kind":"Status","code":410,"reason":"Expired"}`)
		a.set(func() { a.slices = map[string]string{"b": slice("b", "IPv4", "10.0.0.2")} })
		time.Sleep(time.Second)
		p.expect(t, "", "10.0.0.2:7090")
		if lists, watches := a.count(&a.lists), a.count(&a.watches); lists != 2 || watches != 2 {
			t.Errorf("%d lists and %d watches, want 2 of each", lists, watches)
		}
	})
}

// TestSilentAPI: an API server that a NetworkPolicy hides delays the first answer
// for a moment only.
func TestSilentAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		a.net.Partition([]string{"pod"}, []string{"api"})
		p := a.newPod(func(context.Context) ([]string, error) { return []string{"10.0.0.9:7090"}, nil })
		began := time.Now()
		p.expect(t, "endpoints of prod/pods: not answered yet", "10.0.0.9:7090")
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the first answer took %v", took)
		}
		time.Sleep(10 * time.Second)
		p.expect(t, "deadline", "10.0.0.9:7090")
	})
}

func TestOutsideKubernetes(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := endpointslices.New(endpointslices.Config{}); err == nil || !strings.Contains(err.Error(), "not a pod of Kubernetes") {
		t.Errorf("New outside of Kubernetes: %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "443")
	if r, err := endpointslices.New(endpointslices.Config{}); err != nil || r.Server != "[fd00::1]:443" {
		t.Errorf("New = %v, %v", r, err)
	}
}

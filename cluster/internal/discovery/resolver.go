package discovery

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Resolver finds the pods of a cluster.
type Resolver interface {
	// Resolve returns the addresses of all pods as host:port, the own one
	// among them or not. It returns when ctx ends. An empty answer is an
	// answer.
	Resolve(ctx context.Context) ([]string, error)

	// String names it for the log and the status.
	String() string
}

// Watcher is a Resolver that knows by itself when the pods change. Its answers have
// this pod too, so that readiness waits until they do, as with a headless name.
type Watcher interface {
	Resolver
	// Watch calls changed whenever Resolve has something new to return, addresses
	// or an error, until ctx ends. It is called once; changed does not wait.
	Watch(ctx context.Context, changed func())
}

// Lookup finds the addresses of a host name, see [net.Resolver.LookupNetIP].
type Lookup func(ctx context.Context, network, host string) ([]netip.Addr, error)

// maxLookups is how many names are looked up at the same time.
const maxLookups = 32

// Names returns a Resolver that looks host names up: the one name that all pods
// have if there is one, or else each of a list, with the port given unless they
// have one. lookup is what asks for them; nil: [Strictly] of the system's.
func Names(headless string, static []string, port int, lookup Lookup) (Resolver, error) {
	r := &names{text: "static", lookup: lookup}
	if lookup == nil {
		r.lookup = Strictly(nil)
	}
	switch {
	case headless != "":
		static, r.text, r.headless = []string{headless}, headless, true
	case len(static) == 0:
		return nil, errors.New("cluster: no name and no list of pods")
	}
	for _, text := range static {
		host, port, err := splitPod(text, port)
		if err != nil {
			return nil, err
		}
		r.entries = append(r.entries, &nameEntry{host: host, port: port})
	}
	return r, nil
}

// Strictly returns the lookups of dns, which may be nil for the system's, with one
// difference: a temporary error is reported, and not hidden by the name server's
// answer for the next name in the search list.
func Strictly(dns *net.Resolver) Lookup {
	strict := &net.Resolver{StrictErrors: true}
	if dns != nil {
		strict.PreferGo, strict.Dial = dns.PreferGo, dns.Dial
	}
	return strict.LookupNetIP
}

// splitPod splits "host", "host:port", an IPv6 address or "[v6]:port" into host
// and port, which is the given one when text has none.
func splitPod(text string, port int) (string, uint16, error) {
	host := text
	bare := text
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		bare = strings.TrimSuffix(inner, "]")
	}
	if ip, err := netip.ParseAddr(bare); err == nil {
		host = ip.String()
	} else if strings.Contains(text, ":") {
		var service string
		if host, service, err = net.SplitHostPort(text); err != nil {
			return "", 0, fmt.Errorf("cluster: pod %q: %w", text, err)
		}
		if port, err = strconv.Atoi(service); err != nil {
			return "", 0, fmt.Errorf("cluster: pod %q: port %q is not a number", text, service)
		}
	}
	if _, err := netip.ParseAddr(host); err != nil && (host == "" || strings.ContainsFunc(host, notOfAName)) {
		return "", 0, fmt.Errorf("cluster: pod %q: want host, host:port or [v6]:port", text)
	}
	if port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("cluster: pod %q: port %d is not between 1 and 65535", text, port)
	}
	return host, uint16(port), nil
}

// notOfAName reports whether no name of a host has c.
func notOfAName(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		return false
	}
	return true
}

// names resolves host names, all addresses of each.
type names struct {
	text     string
	headless bool // text is one name that all pods have
	lookup   Lookup
	entries  []*nameEntry
}

// nameEntry is one name and what its name server said last.
type nameEntry struct {
	host string
	port uint16

	mu   sync.Mutex  // guards what follows
	last [2][]string // IPv4, IPv6: the last answer for each, kept while it cannot be had
}

// String names the resolver for people.
func (r *names) String() string { return r.text }

// Resolve looks all names up at once. What it returns beside an error is good:
// what could be resolved, and the last answers in place of the others.
func (r *names) Resolve(ctx context.Context) ([]string, error) {
	_, err := r.resolve(ctx, time.Second, func([]string) {})
	return r.known(), err
}

// errEnough ends what is still asked when there is an answer to go on with.
var errEnough = errors.New("other answers have come")

// resolve looks all names up at once, and calls came with all addresses that are
// known by then whenever an answer has come: a name or a family that is not
// answered delays no other. From the first answer on it waits for the others for
// patience at most, or for as long as ctx lasts if that is 0; cut says that patience
// was not enough, which is no error. came must not wait.
func (r *names) resolve(ctx context.Context, patience time.Duration, came func(found []string)) (cut bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg     sync.WaitGroup
		turn   sync.Mutex // held for came, so that the last call knows most
		enough *time.Timer
		errs   = make([]error, len(r.entries))
		slot   = make(chan struct{}, maxLookups)
	)
	for i, e := range r.entries {
		slot <- struct{}{}
		wg.Go(func() {
			defer func() { <-slot }()
			errs[i] = e.resolve(ctx, r.lookup, func() {
				turn.Lock()
				defer turn.Unlock()
				if enough == nil && patience > 0 {
					enough = time.AfterFunc(patience, func() { cancel(errEnough) })
				}
				came(r.known())
			})
		})
	}
	wg.Wait()
	if enough != nil {
		enough.Stop()
	}
	return errors.Is(context.Cause(ctx), errEnough), errors.Join(errs...)
}

// known returns the last addresses of all names.
func (r *names) known() (all []string) {
	for _, e := range r.entries {
		last := e.addresses()
		all = slices.Concat(all, last[0], last[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// asked is what is asked about a name: its addresses of one family or of both.
type asked struct {
	network  string
	answered bool
	found    [2][]string // by family
	err      error
}

// good reports whether q was answered with addresses, none whether with the word
// that there are none.
func (q *asked) good() bool { return q.answered && q.err == nil }
func (q *asked) none() bool { return q.answered && notFound(q.err) }

// resolve asks for both families together and for each by itself, all at once,
// and calls came after each answer with addresses.
//
// The answer to the question for both is the best one: with the search list of
// resolv.conf it ends at the first name that has any address, while a question
// for a family that the pods do not have goes on, maybe to names of others. But
// it waits and fails with the worse of the two families. Until it has come, and
// when it does not, the answers for each family are used.
func (e *nameEntry) resolve(ctx context.Context, lookup Lookup, came func()) error {
	if ip, err := netip.ParseAddr(e.host); err == nil {
		e.keep(e.split([]netip.Addr{ip}))
		came()
		return nil
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		both   = &asked{network: "ip"}
		single = [2]*asked{{network: "ip4"}, {network: "ip6"}}
		before = e.addresses()
		turn   = make(chan func(), 3) // what notes an answer
	)
	for _, q := range []*asked{both, single[0], single[1]} {
		asking.Go(func() {
			ips, err := lookup(ctx, q.network, e.host)
			turn <- func() { q.answered, q.found, q.err = true, e.split(ips), err }
		})
	}
	for range cap(turn) {
		(<-turn)()
		now, decided := before, both.good()
		for family, own := range single {
			other := single[1-family]
			switch {
			case both.good() && len(both.found[family]) > 0:
				now[family] = both.found[family]
			case both.good() && (own.good() || own.none()), other.good() && own.none():
				now[family] = nil
			case own.good():
				now[family] = own.found[family]
			default: // its last answer stays, until there is word of it
				decided = decided && (own.answered || len(before[family]) == 0)
			}
		}
		e.keep(now)
		if both.good() || single[0].good() || single[1].good() {
			came()
		}
		if decided {
			return nil
		}
	}
	if errors.Is(context.Cause(ctx), errEnough) {
		return nil
	}
	var errs []error
	for _, own := range single {
		if !own.good() && !own.none() {
			errs = append(errs, fmt.Errorf("resolve %s: %w", e.host, own.err))
		}
	}
	if single[0].none() && single[1].none() && !both.good() {
		errs = append(errs, fmt.Errorf("resolve %s: %w", e.host, single[0].err))
	}
	return errors.Join(errs...)
}

// split sorts addresses by family and adds the port.
func (e *nameEntry) split(ips []netip.Addr) (found [2][]string) {
	for _, ip := range ips {
		ip = ip.Unmap()
		family := 0
		if ip.Is6() {
			family = 1
		}
		found[family] = append(found[family], netip.AddrPortFrom(ip, e.port).String())
	}
	return found
}

func (e *nameEntry) keep(addresses [2][]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = addresses
}

func (e *nameEntry) addresses() [2][]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.last
}

// notFound reports whether err is the answer that there are no addresses, and
// nothing else is in it.
func notFound(err error) bool {
	type joined interface {
		error
		Unwrap() []error
	}
	if all, ok := errors.AsType[joined](err); ok {
		return !slices.ContainsFunc(all.Unwrap(), func(err error) bool { return !notFound(err) })
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound && !dns.IsTemporary && !dns.IsTimeout
}

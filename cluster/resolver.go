package cluster

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
)

// lookupIP is [net.Resolver.LookupNetIP].
type lookupIP func(ctx context.Context, network, host string) ([]netip.Addr, error)

// maxLookups is how many names are looked up at the same time.
const maxLookups = 8

// newResolver returns what finds the pods that c names.
func newResolver(c *Config) (Resolver, error) {
	port := c.Port
	if port == 0 {
		port = DefaultInterpodPort
	}
	texts := c.Static
	switch {
	case c.Resolver != nil:
		return c.Resolver, nil
	case c.Headless != "":
		texts = []string{c.Headless}
	case len(texts) == 0:
		return nil, errors.New("cluster: no name and no list of pods")
	}
	r := &names{text: "static", lookup: net.DefaultResolver.LookupNetIP}
	if c.Headless != "" {
		r.text = c.Headless
	}
	for _, text := range texts {
		host, port, err := splitPod(text, port)
		if err != nil {
			return nil, err
		}
		r.entries = append(r.entries, &nameEntry{host: host, port: port})
	}
	return r, nil
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

// names resolves host names, all addresses of each. It is what Config.Headless
// and Config.Static make.
type names struct {
	text    string
	lookup  lookupIP
	entries []*nameEntry
}

// nameEntry is one name and its last answer, which is kept while the name
// cannot be resolved: one that is down hides no other.
type nameEntry struct {
	host string
	port uint16

	mu   sync.Mutex
	last []string
}

// String names the resolver for people.
func (r *names) String() string { return r.text }

// Resolve looks all names up at once. What it returns beside an error is good:
// the names that could be resolved, and the last answer for the others.
func (r *names) Resolve(ctx context.Context) ([]string, error) {
	var (
		all  []string
		errs []error
		mu   sync.Mutex // guards all and errs
		wg   sync.WaitGroup
		slot = make(chan struct{}, maxLookups)
	)
	for _, e := range r.entries {
		slot <- struct{}{}
		wg.Go(func() {
			defer func() { <-slot }()
			found, err := e.resolve(ctx, r.lookup)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, found...)
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return slices.Compact(all), errors.Join(errs...)
}

func (e *nameEntry) resolve(ctx context.Context, lookup lookupIP) ([]string, error) {
	if ip, err := netip.ParseAddr(e.host); err == nil {
		return []string{netip.AddrPortFrom(ip.Unmap(), e.port).String()}, nil
	}
	// "ip" asks for A and AAAA.
	ips, err := lookup(ctx, "ip", e.host)
	e.mu.Lock()
	defer e.mu.Unlock()
	if err != nil {
		return e.last, fmt.Errorf("resolve %s: %w", e.host, err)
	}
	e.last = nil
	for _, ip := range ips {
		e.last = append(e.last, netip.AddrPortFrom(ip.Unmap(), e.port).String())
	}
	return e.last, nil
}

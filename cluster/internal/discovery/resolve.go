package discovery

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"
)

// resolve asks once where the pods are. What has come is used at once; a failure
// keeps the former answer.
func (d *Discovery) resolve(ctx context.Context, patience time.Duration) {
	timed, cancel := context.WithTimeout(ctx, ResolveTimeout)
	defer cancel()
	d.mu.Lock()
	wasFine, before := d.failure == nil, d.answered
	d.mu.Unlock()
	var (
		cut bool
		err error
	)
	if r, ok := d.resolver.(*names); ok {
		cut, err = r.resolve(timed, patience, func(some []string) { _ = d.found(some) }) // all of them can be dialed
	} else {
		var texts []string
		if texts, err = d.resolver.Resolve(timed); ctx.Err() == nil && (err == nil || len(texts) > 0) {
			err = errors.Join(err, d.found(texts))
		}
	}
	if ctx.Err() != nil {
		return
	}

	d.mu.Lock()
	d.resolving = false
	if cut && err == nil {
		err = d.failure // there is no word of what failed before
	}
	d.failure, d.partly = err, err != nil && d.answered.After(before)
	partly, addresses, answer := d.partly, len(d.answer), d.answer
	if err != nil {
		d.failed = time.Now()
	}
	if d.answered.IsZero() && notFound(err) {
		// A headless Service that has no pod yet has no records either, and the
		// first pod must not wait for others to appear. It is told all the same:
		// the name may be wrong.
		d.absent = true
	}
	d.looked = d.absent || !d.answered.IsZero()
	d.mu.Unlock()
	if err == nil || partly {
		d.pods.Named(answer)
	}
	switch {
	case partly && wasFine && d.watcher != nil:
		d.log.Warn("pods found by their name: what is watched does not answer", "name", d.resolver, "addresses", addresses, "err", err)
	case partly && wasFine:
		d.log.Warn("pods resolved in part: what has come is used", "name", d.resolver, "addresses", addresses, "err", err)
	case err != nil && wasFine:
		d.log.Warn("pods not resolved", "name", d.resolver, "err", err)
	case err == nil && (before.IsZero() || !wasFine):
		d.log.Info("pods resolved", "name", d.resolver, "addresses", addresses)
	}
	d.again()
}

// found takes an answer: these are the pods. The error names what in it cannot be
// dialed.
func (d *Discovery) found(texts []string) (err error) {
	found := map[netip.AddrPort]bool{}
	for _, text := range texts {
		addr, parseErr := netip.ParseAddrPort(text)
		if parseErr != nil || addr.Port() == 0 || addr.Addr().IsUnspecified() {
			err = errors.Join(err, fmt.Errorf("resolved %q, which cannot be dialed", text))
			continue
		}
		if len(found) < MaxAddresses {
			found[netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())] = true
		}
	}
	if err != nil && len(found) == 0 {
		return err // not an answer
	}
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answered = now
	d.answer = slices.SortedFunc(maps.Keys(found), netip.AddrPort.Compare)
	for _, t := range d.targets {
		t.wanted = false
	}
	for addr := range found {
		d.targetLocked(addr, now).wanted = true
	}
	d.again()
	return err
}

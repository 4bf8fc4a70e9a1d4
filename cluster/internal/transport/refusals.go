package transport

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// maxRefusals bounds the refused connections that are remembered, by source, and
// refusalsKept how long they are shown.
const (
	maxRefusals  = 64
	refusalsKept = time.Minute
)

// refusals are the connections of pods that were refused, as the status shows them,
// and what the log has said of pods. Guarded by transport.mu.
type refusals struct {
	bySource *simplelru.LRU[netip.Addr, refusal]
	warned   *simplelru.LRU[warning, struct{}]
}

// refusal is why a connection to this pod was refused.
type refusal struct {
	reason string
	err    error
	said   string    // the address that it announced, which nothing has proved
	since  time.Time // the first of a row
	at     time.Time // the last
}

// warning is what is logged once of a process of a pod.
type warning struct {
	pod    wire.PodID
	reason string
}

func newRefusals() refusals {
	return refusals{newLRU[netip.Addr, refusal](maxRefusals), newLRU[warning, struct{}](maxRefusals)}
}

// add keeps why a connection of a pod was refused, and reports whether the last one
// from there was not refused for the same reason.
func (l *refusals) add(from netip.Addr, reason string, err error, said string) (news bool) {
	now := time.Now()
	r := refusal{reason, err, said, now, now}
	old, known := l.bySource.Get(from)
	if known && old.reason == reason && old.said == said && now.Sub(old.at) < refusalsKept {
		r.since = old.since
	}
	l.bySource.Add(from, r)
	return !known || old.reason != reason
}

// first reports whether it was not said before of a pod that it is refused, or
// refuses, for that reason.
func (l *refusals) first(id wire.PodID, reason string) bool {
	w := warning{id, reason}
	if l.warned.Contains(w) {
		return false
	}
	l.warned.Add(w, struct{}{})
	return true
}

// rows are the refusals of the last while from addresses that are not linked.
func (l *refusals) rows(now time.Time, linked map[string]bool) (pods []status.Pod) {
	for _, ip := range l.bySource.Keys() {
		r, _ := l.bySource.Peek(ip)
		if now.Sub(r.at) < refusalsKept && !linked[r.said] {
			pods = append(pods, status.Pod{
				Address: r.said, State: status.Refused, Since: r.since, Reason: r.reason,
				Error: fmt.Sprintf("it connected from %s: %v", ip, r.err),
			})
		}
	}
	return pods
}

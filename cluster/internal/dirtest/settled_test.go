package dirtest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// checkSettled looks whether everything is as it must be when nothing has
// happened for long enough.
func (w *world) checkSettled() {
	owners := w.checkOwners()
	living := slices.SortedFunc(maps.Values(w.pods), func(a, b *pod) int { return cmp.Compare(a.label, b.label) })
	for _, p := range living {
		if p.stopping {
			w.violate("settled", "%s is still stopping", p.label)
		}
		p.checkQuiet(len(living))
	}
	w.checkClaims(living, owners)
	w.checkSubscriptions(living, owners)
	for _, m := range w.messages {
		if m.fate == "" {
			w.violate("I6", "message %d to %s, sent at %s, has no fate", m.number, m.dst.label, m.from)
		}
	}
	w.checkLookups(living, owners)
}

// owner is a connection that must be in the directory in the end.
type owner = tenure

// checkOwners is invariant 1: each connected peer has one owner, its newest
// connection.
func (w *world) checkOwners() []*owner {
	var owners []*owner
	for _, label := range slices.Sorted(maps.Keys(w.peers)) {
		x := w.peers[label]
		var here []*owner
		for _, t := range x.tenures {
			if t.end == 0 {
				here = append(here, t)
			}
		}
		if len(here) > 1 {
			w.violate("I1", "%s is at both %s and %s", x.label, here[0].pod.label, here[1].pod.label)
		}
		owners = append(owners, here...)
	}
	return owners
}

// checkQuiet is invariant 2: nothing is left of what is over.
func (p *pod) checkQuiet(pods int) {
	w, s := p.w, p.dir.Stats()
	unlinked := 0
	for _, pair := range w.script.Severe {
		other := pair[0]
		if other == p.label {
			other = pair[1]
		} else if pair[1] != p.label {
			continue
		}
		if w.pods[other] != nil {
			unlinked++
		}
	}
	for _, x := range []struct {
		what      string
		got, want int
	}{
		{"pods in its view", s.Pods, pods - unlinked},
		{"suspect pods", s.Suspect, 0},
		{"open lookups", s.Lookups, 0},
		{"lingers", s.Lingering, 0},
		{"sessions to place at", s.Syncing, 0},
		{"peers", s.Local, len(p.sockets)},
		{"interests", s.Interests, len(p.interests)},
		{"lookups without an answer", len(p.asked), 0},
		{"runners-up", len(p.runnersUp), 0},
		{"messages kept", len(p.parked), 0},
		{"lookups of messages", p.routes.Stats().Lookups, 0},
		{"messages for pods", len(p.queued), 0},
	} {
		if x.got != x.want {
			w.violate("I2", "%s has %d %s, want %d", p.label, x.got, x.what, x.want)
		}
	}
	for _, e := range p.inUse {
		if q := e.peer.pod; q.inUse[p.id] != e.peer {
			w.violate("sessions", "%s uses another connection with %s than that one", p.label, q.label)
		}
	}
	if len(w.script.Severe) == 0 && !s.Complete {
		w.violate("I2", "%s is not complete", p.label)
	}
	if !s.MayDeny {
		w.violate("I2", "%s may not deny", p.label)
	}
}

// checkClaims is invariants 1, 2 and 5: the claims in the directory are those of
// the owners, each at exactly its homes.
func (w *world) checkClaims(living []*pod, owners []*owner) {
	want := map[string]bool{} // at which pod, what
	local := map[string]bool{}
	for _, t := range owners {
		for _, n := range append([]wire.Name{t.peer.name}, t.groups...) {
			place := directory.Place{Name: n, Member: t.peer.id, Pod: t.pod.id, Epoch: t.epoch}
			local[w.claimText(t.pod, place)] = true
			for _, h := range t.pod.dir.Homes(n) {
				want[w.claimText(w.members[h], place)] = true
			}
		}
	}
	got, gotLocal := map[string]bool{}, map[string]bool{}
	for _, p := range living {
		for c := range p.dir.Claims() {
			got[w.claimText(p, c)] = true
		}
		for c := range p.dir.Local() {
			gotLocal[w.claimText(p, c)] = true
		}
	}
	w.compare("I1", "own", local, gotLocal)
	w.compare("I2", "claims", want, got)
}

func (w *world) claimText(at *pod, c directory.Place) string {
	return fmt.Sprintf("%s: %s %sat %s with epoch %d", at.label, w.text(c.Name), w.as(c.Name, c.Member), w.pod(c.Pod), c.Epoch)
}

// checkSubscriptions is invariants 2, 4 and 5: subscriptions are at the homes of
// each pod's interests, their answers and what was notified are the truth.
func (w *world) checkSubscriptions(living []*pod, owners []*owner) {
	want, got := map[string]bool{}, map[string]bool{}
	wantAnswers, gotAnswers := map[string]bool{}, map[string]bool{}
	at := map[*pod]map[wire.Name]map[wire.PodID]bool{} // the homes of whom each owner's claim is at
	homes := func(p *pod, n wire.Name) map[wire.PodID]bool {
		if at[p] == nil {
			at[p] = map[wire.Name]map[wire.PodID]bool{}
		}
		if at[p][n] == nil {
			at[p][n] = map[wire.PodID]bool{}
			for _, h := range p.dir.Homes(n) {
				at[p][n][h] = true
			}
		}
		return at[p][n]
	}
	for _, p := range living {
		for n, i := range p.interests {
			truth := map[messages.PeerID]claimKey{}
			for _, t := range owners {
				if t.peer.name == n || slices.Contains(t.groups, n) {
					truth[t.peer.id] = claimKey{t.peer.id, t.pod.id, t.epoch}
				}
			}
			for h := range homes(p, n) {
				want[fmt.Sprintf("%s: %s for %s", w.pod(h), w.text(n), p.label)] = true
				line := fmt.Sprintf("%s: %s by %s:", p.label, w.text(n), w.pod(h))
				var members []string
				for _, t := range owners {
					// A pod that is asked tells its own, home or not.
					if _, ok := truth[t.peer.id]; ok && (homes(t.pod, n)[h] || t.pod.id == h) {
						members = append(members, fmt.Sprintf(" %s at %s with epoch %d", t.peer.label, t.pod.label, t.epoch))
					}
				}
				slices.Sort(members)
				wantAnswers[line+strings.Join(members, "")] = true
			}
			p.checkTold(n, i, truth)
		}
		for s := range p.dir.Subscriptions() {
			got[fmt.Sprintf("%s: %s for %s", p.label, w.text(s.Name), w.pod(s.Pod))] = true
			if !s.Answered {
				w.violate("I2", "%s has not answered %s's subscription to %s", p.label, w.pod(s.Pod), w.text(s.Name))
			}
		}
		for a := range p.dir.Interests() {
			if !a.Answered {
				w.violate("I2", "%s has no answer of %s for %s", p.label, w.pod(a.Pod), w.text(a.Name))
			}
			line := fmt.Sprintf("%s: %s by %s:", p.label, w.text(a.Name), w.pod(a.Pod))
			var members []string
			for _, m := range a.Members {
				members = append(members, fmt.Sprintf(" %s at %s with epoch %d", w.peerText(m.Member), w.pod(m.Pod), m.Epoch))
			}
			slices.Sort(members)
			gotAnswers[line+strings.Join(members, "")] = true
		}
	}
	w.compare("I2", "subscriptions", want, got)
	w.compare("I2", "answers", wantAnswers, gotAnswers)
}

// checkTold is invariant 4: the last notice is the truth, for the pod and for
// each of its subscribers.
func (p *pod) checkTold(n wire.Name, i *interest, truth map[messages.PeerID]claimKey) {
	w := p.w
	current := map[messages.PeerID]claimKey{}
	for _, c := range p.dir.Current(n) {
		current[c.Member] = claimKey{c.Member, c.Pod, c.Epoch}
	}
	if !maps.Equal(current, truth) || !maps.Equal(i.told, truth) {
		w.violate("I4", "%s subscribes to %s: knows %s, was told %s, but true is %s",
			p.label, w.text(n), w.placesText(current), w.placesText(i.told), w.placesText(truth))
	}
	for who, told := range i.who {
		for m := range truth {
			if !told[m] {
				w.violate("I4", "%s of %s was not told that %s is online", who, p.label, w.peerText(m))
			}
		}
		if len(told) != len(truth) {
			w.violate("I4", "%s of %s believes in %d members of %s, there are %d", who, p.label, len(told), w.text(n), len(truth))
		}
	}
}

func (w *world) placesText(places map[messages.PeerID]claimKey) string {
	if len(places) == 0 {
		return "nobody"
	}
	var list []string
	for m, c := range places {
		list = append(list, fmt.Sprintf("%s at %s with epoch %d", w.peerText(m), w.pod(c.pod), c.epoch))
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// compare reports the first difference of two sets.
func (w *world) compare(invariant, what string, want, got map[string]bool) {
	for _, x := range slices.Sorted(maps.Keys(want)) {
		if !got[x] {
			w.violate(invariant, "missing in %s: %s", what, x)
		}
	}
	for _, x := range slices.Sorted(maps.Keys(got)) {
		if !want[x] {
			w.violate(invariant, "too much in %s: %s", what, x)
		}
	}
}

// checkLookups is invariant 3 at rest: every pod finds every peer, and "nobody" for
// every absent one.
func (w *world) checkLookups(living []*pod, owners []*owner) {
	if w.result.Violation != "" {
		return
	}
	truth := map[wire.Name]*owner{}
	for _, t := range owners {
		truth[t.peer.name] = t
	}
	found := map[string]directory.Effect{}
	w.answers = func(p *pod, e *directory.Effect) { found[p.label+w.text(e.Name)] = *e }
	w.relaxed = true // the answers are looked at here
	for _, p := range living {
		for _, label := range slices.Sorted(maps.Keys(w.peers)) {
			p.lookup(w.peers[label].name, 0)
		}
	}
	w.end += 400 * ms
	w.play()
	for _, p := range living {
		for _, label := range slices.Sorted(maps.Keys(w.peers)) {
			e, ok := found[p.label+label]
			t := truth[w.peers[label].name]
			switch {
			case !ok:
				w.violate("I3", "%s looked up %s and got no answer", p.label, label)
			case t != nil && (e.Result != directory.Owner || e.Pod != t.pod.id || e.Epoch != t.epoch):
				w.violate("I3", "%s looked up %s: %s, but it is at %s", p.label, label, w.answerText(&e), t.pod.label)
			case t == nil && e.Result == directory.Owner:
				w.violate("I3", "%s looked up %s: %s, but it is nowhere", p.label, label, w.answerText(&e))
			case t == nil && e.Result == directory.Unknown && len(w.script.Severe) == 0:
				w.violate("I3", "%s looked up %s: unknown, but it is nowhere", p.label, label)
			}
		}
	}
}

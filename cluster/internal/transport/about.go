package transport

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Pods tell each other, in ABOUT, where they can be dialed, which secrets of the
// cluster they have, and which pods they are linked to. So a pod knows whose an
// address is that it has never got through to, and who is apart from whom.

const (
	// aboutPause is how soon after a change the other pods are told: links come
	// and go together.
	aboutPause = 200 * time.Millisecond

	// apartAfter is how long a difference must have lasted to be one: longer than
	// a link takes to come about.
	apartAfter = 5 * time.Second
)

// aboutLocked returns an ABOUT frame of now.
func (t *Transport) aboutLocked() []byte {
	a := wire.About{Keys: t.keys.IDs(), Own: t.self.addresses}
	for _, c := range t.usedLocked() {
		a.Linked = append(a.Linked, c.of.addr)
	}
	slices.SortFunc(a.Linked, netip.AddrPort.Compare)
	return wire.AppendAbout(nil, a)
}

// aboutChangedLocked makes the other pods hear of a change.
func (t *Transport) aboutChangedLocked() {
	if t.aboutDue == nil && !t.stopped {
		t.aboutDue = time.AfterFunc(aboutPause, t.tellAbout)
	}
}

func (t *Transport) tellAbout() {
	t.mu.Lock()
	if t.aboutDue != nil {
		t.aboutDue.Stop()
		t.aboutDue = nil
	}
	frame, to := t.aboutLocked(), t.usedLocked()
	if t.stopped {
		to = nil
	}
	t.mu.Unlock()
	for _, c := range to {
		c.link.SendControl(frame)
	}
}

// SetSecrets takes other secrets of the cluster, and tells the other pods which.
func (t *Transport) SetSecrets(secrets []string) error {
	if err := t.keys.Swap(secrets...); err != nil {
		return err
	}
	t.tellAbout()
	return nil
}

// takeAbout keeps what the other side of c says of itself.
func (t *Transport) takeAbout(c *conn, a wire.About) {
	t.mu.Lock()
	p := c.of
	if p.used != c {
		t.mu.Unlock()
		return // what it says on another link counts
	}
	t.neighbours.says(p, a)
	if p.about == nil || !slices.Equal(p.about.Linked, a.Linked) {
		p.aboutAt = time.Now()
	}
	p.about = &a
	t.mu.Unlock()
	t.users.LinksChanged(false) // some address may need no dialing any more
}

// apartLocked returns who is apart, by what linked pods say: for a pod, the linked
// ones that it has no link to and that have none to it; under the own address,
// those that linked pods are linked to and this one is not.
func (t *Transport) apartLocked() map[netip.AddrPort][]string {
	now := time.Now()
	apart := map[netip.AddrPort][]string{}
	old := func(p *pod) bool {
		return p.used != nil && p.about != nil && now.Sub(p.aboutAt) >= apartAfter && now.Sub(p.since) >= apartAfter
	}
	for _, p := range t.pods {
		if !old(p) {
			continue
		}
		for _, q := range t.pods {
			if p.addr.Compare(q.addr) < 0 && old(q) && !slices.Contains(p.about.Linked, q.addr) && !slices.Contains(q.about.Linked, p.addr) {
				apart[p.addr] = append(apart[p.addr], q.address)
			}
		}
		for _, addr := range p.about.Linked {
			q, id := t.addresses[addr], wire.PodID(0)
			if id = t.neighbours.at(addr); t.neighbours.left.Contains(id) || slices.Contains(t.self.addresses, addr) || q != nil && q.used != nil {
				continue
			}
			if text := addr.String(); !slices.Contains(apart[t.self.address], text) {
				apart[t.self.address] = append(apart[t.self.address], text)
			}
		}
	}
	for _, list := range apart {
		slices.Sort(list)
	}
	return apart
}

// shortIDs are the hashes of secrets as they are shown: enough to tell them apart.
func shortIDs(keys []wire.Fingerprint) (short []string) {
	for _, k := range keys {
		short = append(short, hex.EncodeToString(k[:4]))
	}
	return short
}

// secretsLocked returns which secrets p has, as it said last.
func (p *pod) secretsLocked() []string {
	if p.about != nil {
		return shortIDs(p.about.Keys)
	}
	return shortIDs(p.hello.Keys)
}

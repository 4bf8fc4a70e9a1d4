package directory

import (
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// tally is the count and the XOR of the hashes of a set of claims.
type tally struct {
	count uint32
	xor   uint64
}

func (t *tally) add(n wire.Name, member messages.PeerID, epoch uint64) {
	t.count++
	t.xor ^= hashClaim(n, member, epoch)
}

func (t *tally) remove(n wire.Name, member messages.PeerID, epoch uint64) {
	t.count--
	t.xor ^= hashClaim(n, member, epoch)
}

// hashClaim is the same on all pods: the hash of the name, for a group's claim
// mixed with that of the member's name, mixed with the epoch.
func hashClaim(n wire.Name, member messages.PeerID, epoch uint64) uint64 {
	h := n.Hash()
	if n.Space() == wire.Group {
		h = wire.Mix(h ^ wire.PeerName(member).Hash())
	}
	return wire.Mix(h ^ epoch)
}

// digestDue schedules a digest of this pod's claims at r, after a change of them.
func (p *Pod) digestDue(r *remote) {
	if r.digestAt == 0 {
		r.digestAt = max(p.now+Time(p.cfg.Timing.Digest), 1)
		p.setTimer(r.digestAt, digestTimer, uint32(r.slot))
	}
}

func (p *Pod) sendDigest(r *remote) {
	r.digestAt = 0
	p.send(r, wire.Entry{Kind: wire.Digest, Epoch: r.placed.xor, ID: r.placed.count})
}

// onDigest compares the claims that r has placed here with those that r counts. Both
// pods count in the order of the entries, so a difference is a bug. The next session
// starts from nothing.
func (p *Pod) onDigest(r *remote, e *wire.Entry) {
	if (tally{e.ID, e.Epoch}) != r.kept {
		p.do(Effect{Do: CloseSession, Session: r.session, Reason: DigestMismatch})
		p.suspect(r)
	}
}

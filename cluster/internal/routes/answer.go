package routes

import (
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

// Answer records how a lookup ended, and returns what to do about it. newerThan is the
// value with which the lookup was started.
func (t *Table) Answer(now Time, dst messages.PeerID, r Result, owner Owner, newerThan uint64) Outcome {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[dst]
	if e == nil {
		return Outcome{} // it took too long, or the table is closed
	}
	if e.state == owned && e.asking {
		e.asking = false
		switch {
		case r == Found:
			e.owner = owner
		case r == Nobody:
			t.removeLocked(sh, e)
			t.quietLocked(sh, dst, absent, now+int64(t.config.Absent))
		}
		return Outcome{}
	}
	if e.state != looking {
		return Outcome{} // Learn was faster
	}
	w := e.waiting
	if w.away {
		return t.backLocked(e, owner, r == Found)
	}
	if r == Found && !w.ends(owner) {
		if newerThan < w.newerThan { // a message has come back since the lookup began
			return Outcome{Again: true, NewerThan: w.newerThan}
		}
		r = Unknown
	}
	switch r {
	case Found:
		e.state, e.owner = draining, owner
		return Outcome{Release: true}
	case Nobody:
		dropped := t.removeLocked(sh, e)
		t.quietLocked(sh, dst, absent, now+int64(t.config.Absent))
		return Outcome{Dropped: dropped}
	}
	dropped := t.removeLocked(sh, e)
	if until := e.time + int64(t.config.Pause); now < until {
		t.quietLocked(sh, dst, unsure, until)
	}
	return Outcome{Dropped: dropped}
}

// Learn records an owner, whether or not a lookup is open. It replaces what is
// remembered, if that is older, and answers an open lookup unless that needs a newer
// owner.
func (t *Table) Learn(now Time, dst messages.PeerID, owner Owner) Outcome {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.closed {
		return Outcome{}
	}
	e := sh.entries[dst]
	if e != nil {
		switch e.state {
		case looking:
			return t.backLocked(e, owner, true)
		case owned, draining:
			if older(e.owner, owner) {
				e.owner, e.asking = owner, false
			}
			return Outcome{}
		}
		t.removeLocked(sh, e)
	}
	e = &entry{dst: dst, state: owned, owner: owner}
	sh.entries[dst] = e
	sh.owned.push(e)
	t.limitLocked(sh, &sh.owned, t.config.Owners)
	return Outcome{}
}

// backLocked ends the wait for a destination that is looked up or away, if owner does.
func (t *Table) backLocked(e *entry, owner Owner, found bool) Outcome {
	if !found || !e.waiting.ends(owner) {
		return Outcome{}
	}
	e.state, e.owner = draining, owner
	return Outcome{Release: true, Held: e.waiting.away}
}

// Back is Learn for a destination that is away; for others it does nothing. The owner
// may be this pod.
func (t *Table) Back(dst messages.PeerID, owner Owner) Outcome {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.entries[dst]; e.away() {
		return t.backLocked(e, owner, true)
	}
	return Outcome{}
}

// Away reports whether messages are kept for dst since it is away.
func (t *Table) Away(dst messages.PeerID) bool {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.entries[dst].away()
}

// Gone says that no pod has dst any more, and returns how many messages were dropped if
// it was away, which is over.
func (t *Table) Gone(dst messages.PeerID) (dropped int, was bool) {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[dst]
	if was = e.away(); was {
		dropped = t.removeLocked(sh, e)
	}
	return dropped, was
}

// away reports whether e, which may be nil, waits for a destination that is away.
func (e *entry) away() bool { return e != nil && e.state == looking && e.waiting.away }

// Moved records what pod, which is remembered as the owner of dst, says: that dst is
// owner's by now. What another pod says, or is older, changes nothing. Any goroutine may
// call Moved.
func (t *Table) Moved(dst messages.PeerID, pod wire.PodID, owner Owner) {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[dst]
	if e != nil && (e.state == owned || e.state == draining) && e.owner.Pod == pod && older(e.owner, owner) {
		e.owner, e.asking = owner, false
	}
}

// older reports whether claim a lost to claim b.
func older(a, b Owner) bool {
	return a.Epoch < b.Epoch || a.Epoch == b.Epoch && a.Pod < b.Pod
}

// maxRounds bounds how often Release checks for more messages. Each round has only the
// messages that came during the round before.
const maxRounds = 100

// Release passes the kept messages for dst to send, without holding a lock. When it
// returns no message is left, and later messages go to the owner directly. It returns
// how many messages it dropped because more kept coming.
func (t *Table) Release(dst messages.PeerID, send func(Owner, Message)) (dropped int) {
	sh := t.shard(&dst)
	for round := 0; ; round++ {
		sh.mu.Lock()
		e := sh.entries[dst]
		if e == nil || e.state != draining {
			sh.mu.Unlock()
			return 0
		}
		msgs, owner := t.take(e.waiting), e.owner
		if len(msgs) == 0 || round == maxRounds {
			e.in.remove(e)
			t.lookups.Add(-1)
			e.state, e.waiting, e.time = owned, nil, 0
			sh.owned.push(e)
			t.limitLocked(sh, &sh.owned, t.config.Owners)
			sh.mu.Unlock()
			return len(msgs)
		}
		sh.mu.Unlock()
		for _, m := range msgs {
			send(owner, m)
		}
	}
}

// Unreachable records that there is no link to the remembered owner of dst. It reports
// whether the caller should look dst up, because the peer may have moved; this is true
// once in Config.Absent. The owner stays remembered meanwhile.
func (t *Table) Unreachable(now Time, dst messages.PeerID, owner Owner) (ask bool) {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	e := sh.entries[dst]
	if e == nil || e.state != owned || e.owner != owner || now < e.time {
		return false
	}
	e.asking, e.time = true, now+int64(t.config.Absent)
	return true
}

// Forget forgets the owner of dst, or that dst was absent.
func (t *Table) Forget(dst messages.PeerID) {
	sh := t.shard(&dst)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if e := sh.entries[dst]; e != nil && (e.state == owned || e.state == absent) {
		t.removeLocked(sh, e)
	}
}

// PodLost forgets every owner that is that pod. This takes tens of milliseconds for a
// full table; each lock is held only for one part of it.
func (t *Table) PodLost(pod wire.PodID) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for e := sh.owned.front; e != nil; {
			next := e.next
			if e.owner.Pod == pod {
				t.removeLocked(sh, e)
			}
			e = next
		}
		sh.mu.Unlock()
	}
}

// Expired is what [Table.Expire] has ended: the destinations, and how many messages it
// dropped with them.
type Expired struct {
	Lookups, Away                 []messages.PeerID
	DroppedLookingUp, DroppedAway int
}

// Expire ends lookups that take too long, as if they had ended in unknown, and the wait
// for destinations that are not back in time, and forgets expired absences. Call it now
// and then, and more often while a destination is away, which it reports.
func (t *Table) Expire(now Time) (ended Expired, away bool) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		for e := sh.quiet.back; e != nil && e.time <= now; e = sh.quiet.back {
			t.removeLocked(sh, e)
		}
		for e := sh.looking.back; e != nil && e.time+int64(t.config.Wait) <= now; e = sh.looking.back {
			if e.state == draining {
				break // Release is running, and ends soon
			}
			ended.Lookups = append(ended.Lookups, e.dst)
			ended.DroppedLookingUp += t.removeLocked(sh, e)
		}
		for e := sh.away.back; e != nil && e.time <= now && e.state != draining; e = sh.away.back {
			ended.Away = append(ended.Away, e.dst)
			ended.DroppedAway += t.removeLocked(sh, e)
		}
		away = away || sh.away.n > 0
		sh.mu.Unlock()
	}
	return ended, away
}

// Close forgets everything and returns how many messages were kept. The verdict on
// later messages is [Closed].
func (t *Table) Close() (dropped int) {
	for i := range t.shards {
		sh := &t.shards[i]
		sh.mu.Lock()
		sh.closed = true
		for _, e := range sh.entries {
			dropped += t.removeLocked(sh, e)
		}
		sh.mu.Unlock()
	}
	return dropped
}

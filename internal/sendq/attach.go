package sendq

import (
	"github.com/crosspod/crosspod/internal/budget"
	"github.com/crosspod/crosspod/internal/drop"
)

// A queue whose writers come and go, as the links to one pod do, has one attached
// at a time. While none is, Push never returns wake.

// Attach makes the caller the one that may take with [Queue.NextOf], in place of
// any other, and ends [Queue.Suspend]. The caller owes the queue a writer.
func (q *Queue) Attach() (attachment uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuse, q.writing, q.attached = drop.None, true, true
	q.attachment++
	return q.attachment
}

// Detach ends an attachment, unless another one has taken its place. Detach(0),
// right after Init, says that there is none yet.
func (q *Queue) Detach(attachment uint32) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.attachment == attachment {
		q.attachment++
		q.attached = false
		q.writing = true // so that Push returns no wake: a writer follows Attach
	}
}

// Suspend drops what is queued and refuses everything, with why, until Attach or
// Resume. It returns how many messages were dropped, which are the caller's to
// count. While a writer is attached it does nothing.
func (q *Queue) Suspend(why drop.Reason) (dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.attached {
		return 0
	}
	q.refuse = why
	return q.dropAllLocked()
}

// Resume ends Suspend.
func (q *Queue) Resume() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.refuse = drop.None
}

// SetBudget makes b bound q in place of what did, with what q holds, within its
// limit or not. nil, for a queue that is not used any more: nothing does.
func (q *Queue) SetBudget(b *budget.Budget) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.budget != nil {
		q.budget.Give(q.charged)
		q.budget.Note(q, budget.Share{})
	}
	if q.budget = b; b != nil {
		b.Give(-q.charged)
		q.noteLocked()
	}
}

package transport

import "github.com/crosspod/crosspod/cluster/internal/handshake"

// maxKeyBytes is how much is sent with one key before the link is replaced. AES-GCM
// is good for 2^24.5 full records, 389 GB (RFC 8446, section 5.5); the rest is for
// the time that it takes.
const maxKeyBytes = 256e9

// worn reports whether the link of c has sent all that its key is good for.
func (c *conn) worn() bool { return c.link.Encrypted() > c.transport.keyBytes }

// renew has another link take the place of a session that is worn, in the way of
// any that is replaced: the pod dials that sends so much, and neither says in the
// handshake that it has a session, so that the leader takes the newcomer. It is
// called with each round trip, so that a dial that fails is repeated. Who has
// dialed the link goes first, where both send as much.
func (t *Transport) renew(c *conn) {
	limit := t.keyBytes
	if c.shaken.Role == handshake.Acceptor {
		limit += limit / 8
	}
	if c.link.Encrypted() <= limit || !c.renewing.CompareAndSwap(false, true) {
		return
	}
	addr := c.dialed
	if !addr.IsValid() {
		addr = c.of.addr
	}
	t.goWork(func() {
		defer c.renewing.Store(false)
		if err := t.Dial(t.ctx, addr); err != nil {
			t.log.Warn("no other link in place of one that has sent much", "pod", c.of.id, "address", c.of.address, "err", err)
		}
	})
}

package transport

import "github.com/crosspod/crosspod/cluster/internal/handshake"

// maxKeyBytes is how much is sent with one key before the link is replaced. AES-GCM
// is good for 2^24.5 full records, 389 GB (RFC 8446, section 5.5); the rest is for
// the time that it takes.
const maxKeyBytes = 256e9

// worn reports whether the link of c has sent all that its key is good for.
func (c *conn) worn() bool { return c.link.Encrypted() > c.transport.keyBytes }

// renew replaces a link whose key has encrypted too much. The pod that sent that much
// dials, and neither side claims a session in its PROOF, so that the leader accepts the
// new link. It is called with each round trip, so a dial that fails is repeated. If both
// sides have sent as much, the pod that dialed the link goes first.
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
			t.log.Warn("could not replace link before its key limit", "pod", c.of.id, "address", c.of.address, "err", err)
		}
	})
}

package transport

import (
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Pods that accept other tokens of peers turn each other's peers away. They
// compare their secrets in each handshake, and do not link if they have none in
// common. Over an existing link they say when the secrets change.

// tokensPause is how long is between two lines about the secrets of one pod, which can
// say as often as it likes that they change.
const tokensPause = time.Minute

// SetTokenSecrets tells the other pods of other secrets.
func (t *Transport) SetTokenSecrets(secrets []string) {
	t.tokens.Store(handshake.NewTokenSecrets(secrets))
	t.mu.Lock()
	for _, c := range t.usedLocked() {
		if frame := t.tokensChangedLocked(c); len(frame) > 0 {
			t.reports.add(report{act: func() { c.link.SendControl(frame) }})
		}
	}
	t.mu.Unlock()
	t.report()
}

// tokensChangedLocked returns what is to be said on c of the secrets of peer
// tokens: nothing if they are as they were said to be.
func (t *Transport) tokensChangedLocked(c *conn) []byte {
	now := c.shaken.Tokens()
	if now == c.tokens.mine {
		return nil
	}
	c.tokens.mine = now
	t.compareTokensLocked(c)
	return wire.AppendTokens(nil, now)
}

// takeTokens notes what the other side of c says of its secrets.
func (t *Transport) takeTokens(c *conn, theirs wire.Fingerprint) {
	t.mu.Lock()
	c.tokens.theirs = theirs
	if c.of.used == c {
		t.compareTokensLocked(c)
	}
	t.mu.Unlock()
	t.report()
}

func (t *Transport) compareTokensLocked(c *conn) {
	p, differ := c.of, handshake.Differ(c.tokens.mine, c.tokens.theirs)
	if now := time.Now(); differ && !p.differs.tokens && now.Sub(p.tokensSaid) >= tokensPause {
		p.tokensSaid = now
		t.reports.add(report{act: func() {
			t.log.Warn("pod accepts other peer tokens: peers may be turned away there or here", "address", p.address)
		}})
	}
	p.differs.tokens = differ
}

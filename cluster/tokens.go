package cluster

import (
	"crypto/sha256"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// Pods that accept other tokens of peers turn each other's peers away. They
// compare a digest of the secrets in each handshake, and say so on a link when
// the secrets change.

// tokenDigest is what pods with the same secrets of peer tokens have in common.
func tokenDigest(secrets []string) []byte {
	if len(secrets) == 0 {
		return nil
	}
	h := sha256.New()
	for _, secret := range slices.Sorted(slices.Values(secrets)) {
		sum := sha256.Sum256([]byte(secret))
		h.Write(sum[:])
	}
	return h.Sum(nil)
}

// setTokenSecrets tells the other pods of other secrets.
func (t *Transport) setTokenSecrets(secrets []string) {
	digest := tokenDigest(secrets)
	t.tokens.Store(&digest)
	t.mu.Lock()
	for _, c := range t.usedLocked() {
		if frame := t.tokensChangedLocked(c); len(frame) > 0 {
			t.reports = append(t.reports, report{act: func() { c.link.SendControl(frame) }})
		}
	}
	t.mu.Unlock()
	t.report()
}

// tokensChangedLocked returns what is to be said on c of the secrets of peer
// tokens: nothing if they are as they were said to be.
func (t *Transport) tokensChangedLocked(c *conn) []byte {
	now := c.shaken.Tokens()
	if now == c.tokens.mine || !c.shaken.Capabilities.Has(wire.CapTokens) {
		return nil
	}
	c.tokens.mine = now
	t.compareTokensLocked(c)
	return wire.AppendTokens(nil, now)
}

// toldTokens notes what the other side of c says of its secrets.
func (t *Transport) toldTokens(c *conn, theirs wire.Fingerprint) {
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
	if differ && !p.differs.tokens {
		t.reports = append(t.reports, report{act: func() {
			t.log.Warn("pod accepts other peer tokens: peers will be turned away there or here", "address", p.address)
		}})
	}
	p.differs.tokens = differ
}

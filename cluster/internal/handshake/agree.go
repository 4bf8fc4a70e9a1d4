package handshake

import (
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// terms are the result of two HELLOs. Both sides compute the same.
type terms struct {
	version byte
	signed  bool
	key     wire.Fingerprint // of the secret that both prove, where signed
}

// agree returns the terms on which the sender of mine can link with the sender of
// theirs, or why it cannot. It uses neither sockets nor secrets.
func agree(mine, theirs *wire.Hello, role Role) (terms, *Error) {
	if theirs.Nonce == mine.Nonce {
		return terms{}, refuse(Reflected, "this pod's own nonce came back")
	}
	t := terms{version: min(mine.Max, theirs.Max)}
	if t.version < max(mine.Min, theirs.Min) {
		return terms{}, refuse(Version, "the other side speaks versions %d to %d, this one %d to %d",
			theirs.Min, theirs.Max, mine.Min, mine.Max)
	}
	if Differ(mine.Instance, theirs.Instance) &&
		!slices.Contains(mine.Former(), theirs.Instance) && !slices.Contains(theirs.Former(), mine.Instance) {
		return terms{}, refuse(OtherInstance, "the other side belongs to another relay: it has another exposed address")
	}
	switch {
	case len(mine.Keys) == 0 && len(theirs.Keys) == 0:
		return t, nil
	case len(theirs.Keys) == 0:
		return terms{}, refuse(UnsignedButRequired, "the other side has no cluster secret")
	case len(mine.Keys) == 0:
		return terms{}, refuse(SignedButUnsupported, "the other side has a cluster secret, this one has none")
	}
	dialer, acceptor := mine.Keys, theirs.Keys
	if role == Acceptor {
		dialer, acceptor = acceptor, dialer
	}
	i := slices.IndexFunc(dialer, func(k wire.Fingerprint) bool { return slices.Contains(acceptor, k) })
	if i < 0 {
		return terms{}, refuse(HMACMismatch, "no cluster secret in common")
	}
	t.signed, t.key = true, dialer[i]
	return t, nil
}

// agreeOnTokens returns an error if both sides have sent fingerprints of their secrets
// of peer tokens and have none in common.
func agreeOnTokens(mine, theirs *wire.Proof) *Error {
	if len(mine.Each) == 0 || len(theirs.Each) == 0 ||
		slices.ContainsFunc(mine.Each, func(f wire.Fingerprint) bool { return slices.Contains(theirs.Each, f) }) {
		return nil
	}
	return refuse(OtherTokens, "no secret of peer tokens in common")
}

package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// Why a token is refused; the errors of a [Validator] wrap one of them.
var (
	// ErrTokenMalformed means that a token is too short, or that its expiry is
	// not a decimal number.
	ErrTokenMalformed = errors.New("auth: malformed token")
	// ErrTokenAlgorithm means that a token is of a kind that is not accepted.
	ErrTokenAlgorithm = errors.New("auth: unknown token algorithm")
	// ErrTokenSignature means that no secret in use signed the token.
	ErrTokenSignature = errors.New("auth: token signed with no secret in use")
	// ErrTokenExpired means that the time of a token is over that is good
	// otherwise. A relay does not count it against the source of the token.
	ErrTokenExpired error = expired("auth: token expired")
	// ErrTokenPeer means that a token names another peer.
	ErrTokenPeer = errors.New("auth: token names another peer")
	// ErrTokenNotNamed means that the token is a good one, and that a named
	// token is demanded.
	ErrTokenNotNamed = errors.New("auth: token names no peer, and a named one is required")
)

type expired string

func (e expired) Error() string { return string(e) }

// Expired lets a relay, which does not import this package, recognise the error.
func (expired) Expired() bool { return true }

// MaxSecrets is how many secrets are live at most, since a forged token costs
// one MAC for each.
const MaxSecrets = 16

// outsidePrefix begins the ids of outside peers. Ids of our own parts begin
// otherwise and need a named token.
const outsidePrefix = "sha-"

// Validator checks tokens against one or more secrets. It is safe for
// concurrent use, changes of its secrets included.
type Validator struct {
	keys    atomic.Pointer[[]*key]
	demands atomic.Bool
}

// NewValidator returns a validator that accepts tokens signed with any of
// secrets. Each is taken literally, commas and spaces included. See
// [Validator.SetSecrets] for what is left out.
func NewValidator(secrets ...string) *Validator {
	v := &Validator{}
	v.SetSecrets(secrets...)
	return v
}

// SetSecrets replaces the secrets: from now on the validator accepts tokens signed
// with any of them, and no others. Empty secrets are left out, since anyone could
// sign with them, and so are secrets after the first [MaxSecrets]. Without a secret
// every token is refused.
func (v *Validator) SetSecrets(secrets ...string) {
	keys := make([]*key, 0, min(len(secrets), MaxSecrets))
	for _, s := range secrets {
		if s != "" && len(keys) < MaxSecrets {
			keys = append(keys, newKey(s))
		}
	}
	v.keys.Store(&keys)
}

// RequireNamed sets whether every peer must present a named token. Initially only
// peers whose id does not begin with "sha-" must.
func (v *Validator) RequireNamed(yes bool) { v.demands.Store(yes) }

// Validate checks a token v2, a []byte or a [Token], for a caller that does not
// say which peer presents it. A named token is not one: it is good only for
// [Validator.ValidatePeer]. After RequireNamed(true) every token is refused.
func (v *Validator) Validate(token any) error {
	var b []byte
	switch t := token.(type) {
	case []byte:
		b = t
	case Token:
		b = t
	default:
		return fmt.Errorf("token is a %T: %w", token, ErrTokenMalformed)
	}
	p, err := parse(b)
	switch {
	case p.kind == KindNamed:
		return ErrTokenAlgorithm
	case err != nil:
		return err
	}
	if err := v.check(p); err != nil {
		return err
	}
	if v.demands.Load() {
		return ErrTokenNotNamed
	}
	return nil
}

// ValidatePeer checks the token that the peer with the given id presents. It
// does not keep token, does not wait and does not look at ctx.
func (v *Validator) ValidatePeer(_ context.Context, id messages.PeerID, token []byte) error {
	p, err := parse(token)
	if err != nil {
		return err
	}
	if err := v.check(p); err != nil {
		return err
	}
	switch {
	case p.kind == KindNamed && p.peer != id:
		return ErrTokenPeer
	case p.kind == KindV2 && (v.demands.Load() || !bytes.HasPrefix(id[:], []byte(outsidePrefix))):
		return ErrTokenNotNamed
	}
	return nil
}

// check looks at signature and expiry, in the order of existing relays.
func (v *Validator) check(p parsed) error {
	if !v.signed(p) {
		return ErrTokenSignature
	}
	seconds, err := p.seconds()
	if err != nil {
		return err
	}
	// In whole seconds: the last one still counts.
	if time.Now().Unix() > seconds {
		return ErrTokenExpired
	}
	return nil
}

// signed reports whether one of the secrets made the MAC. Which one it was is
// no secret, so the search ends there; each comparison takes constant time.
func (v *Validator) signed(p parsed) bool {
	for _, k := range *v.keys.Load() {
		if k.verify(p) {
			return true
		}
	}
	return false
}

// String returns how many secrets are in use, and none of them.
func (v *Validator) String() string {
	return fmt.Sprintf("auth.Validator(%d secrets)", len(*v.keys.Load()))
}

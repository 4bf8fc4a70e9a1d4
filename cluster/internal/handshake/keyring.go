package handshake

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// MinSecret is the least size of a secret in bytes.
const MinSecret = 32

// Errors of [NewKeyRing] and [KeyRing.Swap].
var (
	// ErrShortSecret means that a secret has fewer than [MinSecret] bytes.
	ErrShortSecret = errors.New("the cluster secret is too short")
	// ErrSecrets means that there are more secrets than fit in a HELLO.
	ErrSecrets = errors.New("too many cluster secrets")
	// ErrNoSecret means that the last secret would be taken away.
	ErrNoSecret = errors.New("no cluster secret left")
)

// KeyRing has the cluster secrets in use, the preferred one first. A link is proved
// with the first secret of the dialer that the acceptor has too. So pods with [new,
// old] link with pods that have only [old], and one rollout replaces a secret. It is
// safe for concurrent use. A nil ring has no secret.
type KeyRing struct {
	keys atomic.Pointer[[]key]
}

// key has what is derived from one secret.
type key struct {
	id       wire.Fingerprint
	dialer   []byte
	acceptor []byte
	tokens   []byte
}

// NewKeyRing returns a ring with the secrets, at most [wire.MaxKeys], each
// of at least [MinSecret] bytes. A secret that is given twice counts once. Without a
// secret the pod links only with pods that have none.
func NewKeyRing(secrets ...string) (*KeyRing, error) {
	r := &KeyRing{}
	if len(secrets) == 0 {
		return r, nil
	}
	return r, r.Swap(secrets...)
}

// Swap replaces the secrets. Links and handshakes in progress keep theirs. After an
// error nothing has changed; no secret at all is [ErrNoSecret].
func (r *KeyRing) Swap(secrets ...string) error {
	if len(secrets) == 0 {
		return ErrNoSecret
	}
	var keys []key
	for i, s := range secrets {
		if len(s) < MinSecret {
			return fmt.Errorf("secret %d of %d has %d characters, %d are needed: %w", i+1, len(secrets), len(s), MinSecret, ErrShortSecret)
		}
		k := newKey(s)
		if !slices.ContainsFunc(keys, func(other key) bool { return other.id == k.id }) {
			keys = append(keys, k)
		}
	}
	if len(keys) > wire.MaxKeys {
		return fmt.Errorf("%d, at most %d can be in use: %w", len(keys), wire.MaxKeys, ErrSecrets)
	}
	r.keys.Store(&keys)
	return nil
}

// Len returns the number of secrets.
func (r *KeyRing) Len() int { return len(r.snapshot()) }

// IDs returns the fingerprints of the secrets, the preferred one first.
func (r *KeyRing) IDs() (ids []wire.Fingerprint) {
	for _, k := range r.snapshot() {
		ids = append(ids, k.id)
	}
	return ids
}

// snapshot returns the current keys, which are never changed in place.
func (r *KeyRing) snapshot() []key {
	if r == nil || r.keys.Load() == nil {
		return nil
	}
	return *r.keys.Load()
}

// of returns the key of the proofs of one role.
func (k *key) of(r Role) []byte {
	if r == Dialer {
		return k.dialer
	}
	return k.acceptor
}

func newKey(secret string) key {
	return key{
		id:       wire.Fingerprint(derive(secret, "crosspod key id", wire.FingerprintSize)),
		dialer:   derive(secret, "crosspod dialer proof", sha256.Size),
		acceptor: derive(secret, "crosspod acceptor proof", sha256.Size),
		tokens:   derive(secret, "crosspod token secrets", sha256.Size),
	}
}

func derive(secret, info string, size int) []byte {
	k, err := hkdf.Key(sha256.New, []byte(secret), nil, info, size)
	if err != nil {
		panic(err) // only if size is more than HKDF can give
	}
	return k
}

package handshake

import (
	"crypto/hmac"
	"crypto/sha256"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// TokenSecrets are the secrets of peer tokens of a pod in the form in which pods
// compare them: hashes, which leave the pod only under a key of the cluster. A secret of
// peer tokens may be short, and an acceptor that has proved nothing must not get a value
// against which it could try guesses.
type TokenSecrets struct {
	all  []byte   // the same on pods with the same secrets; nil: none
	each [][]byte // nil: too many to send
}

// NewTokenSecrets returns the hashes of secrets. Their order does not matter.
func NewTokenSecrets(secrets []string) *TokenSecrets {
	t := &TokenSecrets{}
	if len(secrets) == 0 {
		return t
	}
	h := sha256.New()
	for _, secret := range slices.Sorted(slices.Values(secrets)) {
		sum := sha256.Sum256([]byte(secret))
		h.Write(sum[:])
		t.each = append(t.each, sum[:])
	}
	t.all = h.Sum(nil)
	if len(t.each) > wire.MaxTokenSecrets {
		t.each = nil
	}
	return t
}

// under returns the fingerprints under the key k.
func (t *TokenSecrets) under(k *key) (all wire.Fingerprint, each []wire.Fingerprint) {
	if t.all == nil {
		return all, nil
	}
	for _, sum := range t.each {
		each = append(each, fingerprint(k.tokens, []byte("one"), sum))
	}
	return fingerprint(k.tokens, t.all), each
}

func fingerprint(key []byte, parts ...[]byte) (f wire.Fingerprint) {
	h := hmac.New(sha256.New, key)
	for _, part := range parts {
		h.Write(part)
	}
	copy(f[:], h.Sum(nil))
	return f
}

package auth

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"hash"
	"sync"
)

// namedInfo keeps the keys of the two kinds apart.
const namedInfo = "crosspod named peer token"

// key is one secret, ready to sign. It is safe for concurrent use.
type key struct {
	v2, named macPool
}

func newKey(secret string) *key {
	v2 := sha256.Sum256([]byte(secret))
	named, err := hkdf.Key(sha256.New, v2[:], nil, namedInfo, sha256.Size)
	if err != nil {
		panic(err) // only for a length that HKDF cannot give, and this one it can
	}
	k := &key{}
	k.v2.init(v2[:])
	k.named.init(named)
	return k
}

func (k *key) pool(kind Kind) *macPool {
	if kind == KindNamed {
		return &k.named
	}
	return &k.v2
}

func (k *key) sign(kind Kind, payload []byte) Token {
	pool := k.pool(kind)
	m := pool.get()
	defer pool.put(m)
	token := make(Token, 0, headerSize+len(payload))
	token = append(token, byte(kind))
	token = append(token, m.of(payload)...)
	return append(token, payload...)
}

// verify compares in constant time.
func (k *key) verify(p parsed) bool {
	pool := k.pool(p.kind)
	m := pool.get()
	defer pool.put(m)
	return hmac.Equal(m.of(p.payload), p.mac)
}

// mac is an HMAC with room for its sum.
type mac struct {
	hash hash.Hash
	sum  [macSize]byte
}

// of returns the MAC of payload, valid until the next call.
func (m *mac) of(payload []byte) []byte {
	m.hash.Reset()
	m.hash.Write(payload) // never fails, as hash.Hash promises
	return m.hash.Sum(m.sum[:0])
}

// macPool lends MACs of one key. Making one takes several allocations and twice
// the time of using one that is there.
type macPool struct{ pool sync.Pool }

func (p *macPool) init(key []byte) {
	p.pool.New = func() any { return &mac{hash: hmac.New(sha256.New, key)} }
}

func (p *macPool) get() *mac  { return p.pool.Get().(*mac) }
func (p *macPool) put(m *mac) { p.pool.Put(m) }

// NewSecret returns a fresh secret: 43 characters of URL-safe base64, 256 bits
// from the system's source of randomness.
func NewSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails; it ends the program instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

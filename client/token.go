package client

import (
	"context"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
)

// StaticToken returns a source that always returns the same token, which it copies.
// The client keeps trying with it after it has expired.
func StaticToken(token []byte) TokenSource {
	token = append([]byte(nil), token...)
	return func(context.Context) ([]byte, error) { return token, nil }
}

// SecretToken returns a source that signs a fresh token for each attempt, valid
// for ttl, with one of the relay's own secrets. It is for programs of the
// relay's operator: with the secret a program can connect as any peer. Give other
// programs a token instead.
func SecretToken(secret string, ttl time.Duration) TokenSource {
	return func(context.Context) ([]byte, error) {
		return auth.Issue(secret, time.Now().Add(ttl)), nil
	}
}

// NamedSecretToken is [SecretToken] with the stricter kind of token, which is valid
// for one id only. A relay can be configured to accept no other kind. Relays of
// other projects do not know it.
func NamedSecretToken(secret string, id messages.PeerID, ttl time.Duration) TokenSource {
	return func(context.Context) ([]byte, error) {
		return auth.IssueNamed(secret, id, time.Now().Add(ttl)), nil
	}
}

package auth_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
)

// A relay and the issuer of its tokens share a secret.
func Example() {
	validator := auth.NewValidator("relay-secret")
	alice, bob := messages.HashID("alice"), messages.HashID("bob")
	ctx := context.Background()

	// What existing clients have: good for any peer.
	token := auth.Issue("relay-secret", time.Now().Add(12*time.Hour))
	fmt.Println(len(token), "bytes:", validator.ValidatePeer(ctx, alice, token))

	// The stricter kind: good for one.
	token = auth.IssueNamed("relay-secret", alice, time.Now().Add(12*time.Hour))
	fmt.Println(len(token), "bytes:", validator.ValidatePeer(ctx, alice, token))
	err := validator.ValidatePeer(ctx, bob, token)
	fmt.Println(err, errors.Is(err, auth.ErrTokenPeer))
	// Output:
	// 43 bytes: <nil>
	// 79 bytes: <nil>
	// auth: token names another peer true
}

// A secret is replaced by another, and no peer is locked out.
func ExampleValidator_SetSecrets() {
	validator := auth.NewValidator("old")
	token := auth.Issue("old", time.Now().Add(time.Hour))

	validator.SetSecrets("old", "new") // on every pod, before anybody signs with the new one
	validator.SetSecrets("new", "old") // tokens are issued with the new one from here on
	fmt.Println(validator.Validate(token))

	validator.SetSecrets("new") // when the last token of the old one has expired
	fmt.Println(validator.Validate(token))
	// Output:
	// <nil>
	// auth: token signed with no secret in use
}

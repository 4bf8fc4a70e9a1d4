package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/messages"
)

// tokenOptions are the options of `relay token`.
type tokenOptions struct {
	access
	ttl       time.Duration
	peer      string
	json      bool
	newSecret bool
}

func (p *program) tokenCommand() *command {
	var o tokenOptions
	var s setting.Set
	o.addSecret()
	s.Duration(&o.ttl, "ttl", 12*time.Hour, "`TIME` the token lasts")
	s.Func("peer", "", "`NAME` of the one peer the token is for; without it, any peer may use it", peerName(&o.peer))
	s.Bool(&o.json, "json", "print JSON")
	s.Bool(&o.newSecret, "new-secret", "print a new secret and nothing else")
	return &command{
		name: "token", short: "make a token for a peer, or a secret for the relay",
		about: "A token without --peer is of the kind that the clients of NetBird and openZro use; their management server " +
			"hands it out as payload and signature. Only this relay accepts a token with --peer.",
		examples: []string{
			"relay token --new-secret > secret",
			"relay token --secret-file secret --peer alice --ttl 1h",
			"RELAY_AUTH_SECRET=... relay token --json",
		},
		options: []*setting.Set{&o.set, &s},
		run:     func(context.Context, []string) error { return p.token(&o) },
	}
}

func (p *program) token(o *tokenOptions) error {
	usage := func(err error) error { return usageError{err, "relay token"} }
	if o.newSecret {
		if o.secret != "" || o.secretFile != "" || o.peer != "" || o.json {
			return usage(errors.New("--new-secret goes with no other option"))
		}
		_, err := fmt.Fprintln(p.stdout, auth.NewSecret())
		return err
	}
	if o.ttl < time.Second {
		return usage(fmt.Errorf("--ttl is %v: want at least 1s", o.ttl))
	}
	if err := o.read(p.lookupEnv); err != nil {
		return usage(err)
	}
	secret, err := o.theSecret()
	if err != nil {
		return err
	}
	if secret == "" {
		return usage(errNoSecret("; --new-secret makes one"))
	}
	printed := printToken(secret, o.peer, time.Now().Add(o.ttl))
	if o.json {
		return json.NewEncoder(p.stdout).Encode(printed)
	}
	return printed.write(p.stdout)
}

// printedToken is a token for its owner to see.
type printedToken struct {
	Token     string    `json:"token"`               // hex
	Payload   string    `json:"payload,omitempty"`   // of a token for any peer
	Signature string    `json:"signature,omitempty"` // base64
	Peer      string    `json:"peer,omitempty"`      // of a token for one peer
	PeerID    string    `json:"peer_id,omitempty"`
	Expires   time.Time `json:"expires"`
}

func printToken(secret, peer string, expires time.Time) printedToken {
	expires = expires.UTC().Truncate(time.Second)
	if peer == "" {
		token := auth.Issue(secret, expires)
		return printedToken{Token: hex.EncodeToString(token), Payload: token.Payload(), Signature: token.Signature(), Expires: expires}
	}
	id := messages.HashID(peer)
	token := auth.IssueNamed(secret, id, expires)
	return printedToken{Token: hex.EncodeToString(token), Peer: peer, PeerID: id.String(), Expires: expires}
}

func (t printedToken) write(w io.Writer) error {
	for _, line := range []struct{ name, value string }{
		{"token", t.Token},
		{"payload", t.Payload},
		{"signature", t.Signature},
		{"peer", t.Peer},
		{"peer id", t.PeerID},
		{"expires", t.Expires.Format(time.RFC3339)},
	} {
		if line.value == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-10s %s\n", line.name, line.value); err != nil {
			return err
		}
	}
	return nil
}

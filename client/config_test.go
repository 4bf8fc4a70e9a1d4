package client_test

import (
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
)

func TestNewRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*client.Config)
		want   string
	}{
		{"no address", func(c *client.Config) { c.URL = "" }, "Config.URL is required"},
		{"bad address", func(c *client.Config) { c.URL = "ws://relay" }, `relay address "ws://relay": scheme "ws"`},
		{"8 addresses", func(c *client.Config) { c.URLs = make([]string, 7) }, "8 relay addresses, at most 7"},
		{"no id", func(c *client.Config) { c.Name = "" }, "one of Config.PeerID and Config.Name is required"},
		{"two ids", func(c *client.Config) { c.PeerID = messages.HashID("x") }, "both Config.PeerID and Config.Name"},
		{"no token", func(c *client.Config) { c.Token = nil }, "Config.Token is required"},
		{"negative time", func(c *client.Config) { c.HealthTimeout = -1 }, "Config.HealthTimeout is negative"},
		{"backoff upside down", func(c *client.Config) { c.MinBackoff, c.MaxBackoff = 2, 1 }, "MinBackoff 2ns is above MaxBackoff 1ns"},
		{"queue too small", func(c *client.Config) { c.SendQueue.Bytes = 100 }, "Config.SendQueue: 100 bytes"},
		{"negative queue", func(c *client.Config) { c.PacketQueue.Messages = -1 }, "Config.PacketQueue: -1 messages"},
		{"negative backlog", func(c *client.Config) { c.AcceptBacklog = -1 }, "Config.AcceptBacklog is negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := client.Config{URL: "relay.example.com", Name: "alice", Token: client.StaticToken(nil)}
			tt.change(&cfg)
			_, err := client.New(cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("New = %v, want it to say %q", err, tt.want)
			}
		})
	}
}

func TestNewOpensNothing(t *testing.T) {
	c, err := client.New(client.Config{URL: "relay.example.com", PeerID: messages.HashID("alice"), Token: client.StaticToken(nil)})
	if err != nil {
		t.Fatal(err)
	}
	if c.State() != client.StateIdle || c.PeerID() != messages.HashID("alice") || c.InstanceURL() != "" {
		t.Errorf("State %v, PeerID %v, InstanceURL %q", c.State(), c.PeerID(), c.InstanceURL())
	}
	if err := c.Shutdown(t.Context()); err != nil { // nothing to shut down
		t.Errorf("Shutdown = %v", err)
	}
}

func TestStates(t *testing.T) {
	for state, want := range map[client.State]string{
		client.StateIdle: "idle", client.StateConnecting: "connecting",
		client.StateConnected: "connected", client.StateClosed: "closed", 9: "State(9)",
	} {
		if got := state.String(); got != want {
			t.Errorf("String = %q, want %q", got, want)
		}
	}
}

func TestTokenSources(t *testing.T) {
	const secret = "a secret of the operator, at least 32 bytes"
	v := auth.NewValidator(secret)
	alice := messages.HashID("alice")
	given := []byte("given")
	static := client.StaticToken(given)
	given[0] = 'x'
	if got, err := static(t.Context()); string(got) != "given" || err != nil {
		t.Errorf("StaticToken: %q, %v", got, err)
	}
	for name, source := range map[string]client.TokenSource{
		"SecretToken":      client.SecretToken(secret, time.Hour),
		"NamedSecretToken": client.NamedSecretToken(secret, alice, time.Hour),
	} {
		token, err := source(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := v.ValidatePeer(t.Context(), alice, token); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	v.RequireNamed(true)
	token, _ := client.NamedSecretToken(secret, alice, time.Hour)(t.Context())
	if err := v.ValidatePeer(t.Context(), messages.HashID("bob"), token); err == nil {
		t.Error("a token of alice opens bob's id")
	}
}

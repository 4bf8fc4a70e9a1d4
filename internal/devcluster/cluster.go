package devcluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/relay"
)

// Config says what to start. The zero value is a relay on any free port of
// loopback with a fresh secret.
type Config struct {
	// Address is where to listen, a loopback address and a port; empty means
	// any free port of 127.0.0.1.
	Address string
	// Secret is what tokens are signed with; empty means a fresh one.
	Secret string
	// Logger gets the log of the relay; nil means nobody.
	Logger *slog.Logger
}

// tokenTTL is the life of the tokens of the check's peers.
const tokenTTL = 5 * time.Minute

// Cluster is a relay that runs.
type Cluster struct {
	// Set by Start, never changed.
	relay   *relay.Server
	secret  string
	serving sync.WaitGroup

	err error // why it stopped serving; read it after serving
}

// Start starts a relay and returns when it listens. The caller stops it with
// [Cluster.Shutdown].
func Start(ctx context.Context, c Config) (*Cluster, error) {
	if c.Secret == "" {
		c.Secret = auth.NewSecret()
	}
	ln, err := listenLoopback(ctx, c.Address)
	if err != nil {
		return nil, err
	}
	server, err := relay.NewServer(relay.Config{
		ExposedAddress: "rel://" + ln.Addr().String(),
		AuthValidator:  auth.NewValidator(c.Secret),
		Logger:         c.Logger,
	})
	if err != nil {
		_ = ln.Close() // it was never served
		return nil, err
	}
	cluster := &Cluster{relay: server, secret: c.Secret}
	cluster.serving.Go(func() { cluster.err = server.Listen(relay.ListenerConfig{Listener: ln}) })
	return cluster, nil
}

// URL returns the address peers connect to.
func (c *Cluster) URL() string { return c.relay.InstanceURL() }

// Secret returns the secret tokens are signed with.
func (c *Cluster) Secret() string { return c.secret }

// Shutdown closes the peers and stops the relay, at most until ctx ends, and
// returns when nothing of it is left.
func (c *Cluster) Shutdown(ctx context.Context) error {
	err := c.relay.Shutdown(ctx)
	c.serving.Wait()
	return errors.Join(err, c.err)
}

// listenLoopback opens address, which must be of loopback; empty means any free
// port.
func listenLoopback(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	if host, _, err := net.SplitHostPort(address); err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("listen on %q: want a loopback address and a port, since this relay is for trying only", address)
	}
	var lc net.ListenConfig
	return lc.Listen(ctx, "tcp", address)
}

// dial connects a peer.
func (c *Cluster) dial(ctx context.Context, name string) (*client.Client, error) {
	peer, err := client.Dial(ctx, client.Config{URL: c.URL(), Name: name, Token: client.SecretToken(c.secret, tokenTTL)})
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	return peer, nil
}

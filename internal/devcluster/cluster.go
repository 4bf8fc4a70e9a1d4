// Package devcluster is what `relay dev` starts and shows: the pods of one relay
// in this process, all on loopback, and one address in front that leads to each
// in turn. It uses relay and client as any program that embeds them does.
package devcluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/crosspod/crosspod/admin"
	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/relay"
)

// Config says what to start.
type Config struct {
	Pods    int          // how many; 0 means 1
	Address string       // where peers connect, of loopback; empty means any free port
	Secret  string       // signs the tokens of peers; empty means a fresh one
	Logger  *slog.Logger // of all pods; nil discards it
}

// Cluster is a relay of one or more pods that runs.
type Cluster struct {
	// Set by Start, never changed.
	secret, podSecret string
	front             front
	pods              []*pod
	log               *slog.Logger
	operations        *admin.Server // of the first pod
}

// pod is one of them. It may be killed and started again, at the same addresses.
type pod struct {
	name         string
	peers, links net.Listener // for peers of this pod alone, and for other pods
	wires        *wires       // nil: it will not be killed
	server       *relay.Server
	fabric       *relay.ClusterBootstrap
	serving      sync.WaitGroup
}

// Start starts the pods and returns when all are linked. The caller ends them
// with [Cluster.Shutdown].
func Start(ctx context.Context, cfg Config) (_ *Cluster, err error) {
	c := &Cluster{
		secret: cmp.Or(cfg.Secret, auth.NewSecret()), podSecret: auth.NewSecret(),
		log: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
	}
	ln, err := listen(ctx, cfg.Address)
	if err != nil {
		return nil, err
	}
	c.front = front{ln, make(chan net.Conn)}
	go c.front.deal()
	defer func() {
		if err != nil {
			c.Shutdown(ctx)
		}
	}()
	for i := range max(1, cfg.Pods) {
		p := &pod{name: fmt.Sprint("pod ", i+1)}
		if err := p.listen(ctx); err != nil {
			return nil, err
		}
		c.pods = append(c.pods, p)
	}
	if last := len(c.pods) - 1; last > 0 {
		c.pods[last].wires = new(wires)
	}
	if err := c.start(ctx, c.pods...); err != nil {
		return nil, err
	}
	ops := admin.Config{OpsAddress: "127.0.0.1:0", LogLevel: new(slog.LevelVar), Cluster: func() any { return c.pods[0].fabric.Status() }}
	if c.operations, err = admin.New(ops); err == nil {
		err = c.operations.Listen(ctx)
	}
	if err != nil {
		return nil, err
	}
	c.pods[0].serving.Go(func() { _ = c.operations.Serve() }) // until Shutdown
	return c, nil
}

// listen opens an address of loopback; empty means any free port.
func listen(ctx context.Context, address string) (net.Listener, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	if host, _, err := net.SplitHostPort(address); err != nil || host != "localhost" && !net.ParseIP(host).IsLoopback() {
		return nil, fmt.Errorf("listen on %q: want a loopback address and a port, since this relay is for trying only", address)
	}
	return new(net.ListenConfig).Listen(ctx, "tcp", address)
}

// listen opens the listeners of the pod, again where they were before.
func (p *pod) listen(ctx context.Context) error {
	for _, to := range []*net.Listener{&p.peers, &p.links} {
		address := ""
		if *to != nil {
			address = (*to).Addr().String()
		}
		ln, err := listen(ctx, address)
		if err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		*to = ln
	}
	return nil
}

// start starts pods that listen, and waits until they are linked.
func (c *Cluster) start(ctx context.Context, pods ...*pod) (err error) {
	var links []string
	for _, p := range c.pods {
		links = append(links, p.links.Addr().String())
	}
	for _, p := range pods {
		log := c.log.With("self", p.name)
		p.server, err = relay.NewServer(relay.Config{ExposedAddress: c.URL(), AuthValidator: auth.NewValidator(c.secret), Logger: log})
		if err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		p.fabric, err = relay.StartCluster(ctx, p.server.Store(), relay.ClusterBootstrapConfig{
			StaticPeers: links, PodIP: "127.0.0.1", ListenAddress: p.links.Addr().String(), AuthSecret: c.podSecret,
			InstanceURL: p.server.InstanceURL(), TokenSecrets: []string{c.secret}, Logger: log,
			Listen: func(string, string) (net.Listener, error) { return wired{p.links, p.wires}, nil },
			Dial:   p.wires.dial,
		})
		if err != nil {
			return fmt.Errorf("start %s: %w", p.name, err)
		}
		p.server.SetCrossPodForwarder(p.fabric.Forwarder)
		p.serve(wired{p.peers, p.wires})
		if p.wires == nil { // else its peers would be killed with it
			p.serve(c.front)
		}
	}
	for _, p := range pods {
		if err := p.fabric.WaitReady(ctx); err != nil {
			return fmt.Errorf("wait until %s is ready: %w", p.name, err)
		}
	}
	return nil
}

// serve serves peers until the pod, or the listener, is closed.
func (p *pod) serve(ln net.Listener) {
	p.serving.Go(func() { _ = p.server.Listen(relay.ListenerConfig{Listener: ln}) })
}

// kill ends the pod as the death of its process would.
func (p *pod) kill() {
	p.wires.cut()
	p.stop(context.Background()) // what it has to say reaches no peer and no pod
	p.wires = nil
}

// stop ends the pod, peers first, at most until ctx ends.
func (p *pod) stop(ctx context.Context) {
	if p.server != nil {
		_ = p.server.Shutdown(ctx) // an error means that peers were cut
	}
	p.fabric.Stop()
	_, _ = p.peers.Close(), p.links.Close() // they may be closed
	p.serving.Wait()
}

// URL returns the address peers connect to, the same whichever pod they land on.
func (c *Cluster) URL() string { return url(c.front) }

func url(ln net.Listener) string { return "rel://" + ln.Addr().String() }

// Secret returns the secret that signs the tokens of peers.
func (c *Cluster) Secret() string { return c.secret }

// Shutdown ends the relay, at most until ctx ends, and returns when nothing of it
// is left.
func (c *Cluster) Shutdown(ctx context.Context) {
	_ = c.front.Close() // nothing more is accepted
	if c.operations != nil {
		_ = c.operations.Close() // returns nil
	}
	var stopping sync.WaitGroup
	for _, p := range c.pods {
		stopping.Go(func() { p.stop(ctx) })
	}
	stopping.Wait()
}

// front is one listener for all pods. It gives each connection to the pod that has
// waited longest.
type front struct {
	net.Listener
	conns chan net.Conn
}

func (f front) Accept() (net.Conn, error) {
	if conn, ok := <-f.conns; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

// deal accepts until the listener is closed.
func (f front) deal() {
	defer close(f.conns)
	for {
		conn, err := f.Listener.Accept()
		switch {
		case err == nil:
			f.conns <- conn
		case errors.Is(err, net.ErrClosed):
			return
		default: // the peer has gone, or too many files are open
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// wires are the listeners' connections of a pod that will be killed, and those it
// has dialled. Cutting them leaves what a dead process leaves: closed sockets.
type wires struct {
	mu    sync.Mutex // guards what follows
	isCut bool
	conns []net.Conn
}

// keep notes a connection to cut; once the wires are cut there are no new ones.
func (w *wires) keep(conn net.Conn, err error) (net.Conn, error) {
	if w == nil || err != nil {
		return conn, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.isCut {
		_ = conn.Close() // it was never used
		return nil, net.ErrClosed
	}
	w.conns = append(w.conns, conn)
	return conn, nil
}

func (w *wires) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.isCut = true
	for _, conn := range w.conns {
		_ = conn.Close() // it may be closed
	}
}

// dial connects to another pod.
func (w *wires) dial(ctx context.Context, network, address string) (net.Conn, error) {
	return w.keep(new(net.Dialer).DialContext(ctx, network, address))
}

// wired is a listener of a pod with wires.
type wired struct {
	net.Listener
	wires *wires
}

func (l wired) Accept() (net.Conn, error) { return l.wires.keep(l.Listener.Accept()) }

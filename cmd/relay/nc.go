package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sync/errgroup"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/messages"
)

// devAddress is where `relay dev` listens and `relay nc` looks for a relay. The
// port is below those that systems give to outgoing connections, any of which
// would be in the way.
const devAddress = "127.0.0.1:7080"

const (
	// ncTokenTTL is short: a fresh token is made for each connection.
	ncTokenTTL = 5 * time.Minute
	// ncMaxBackoff is short too: somebody is waiting at the terminal.
	ncMaxBackoff = 2 * time.Second
	// ncFlush bounds the wait, at the end, for what was typed to be sent.
	ncFlush = 5 * time.Second
	// ncRetry is the pause before the first connection is tried again.
	ncRetry = time.Second
)

// ncOptions is what `relay nc` is told.
type ncOptions struct {
	name, to   string
	url        string
	secret     string
	secretFile string
	named      bool
}

func (p *program) ncCommand() *cli.Command {
	var o ncOptions
	var s setting.Set
	s.String(&o.to, "to", "", "`NAME` of the peer to talk to; without it, whoever talks first")
	s.String(&o.url, "url", "rel://"+devAddress, "`ADDRESS` of the relay")
	s.String(&o.secret, "secret", "", "`SECRET` of the relay, or the variable RELAY_AUTH_SECRET").Secret().AlsoEnv("AUTH_SECRET")
	s.String(&o.secretFile, "secret-file", "", "`FILE` with the secret, or the variable RELAY_AUTH_SECRET_FILE").AlsoEnv("AUTH_SECRET_FILE")
	s.Bool(&o.named, "named", "use a token that names the peer, which only this relay accepts")
	return &cli.Command{
		Name:      "nc",
		Usage:     "join the terminal to a peer, a line a message",
		ArgsUsage: "NAME [--to NAME]",
		Description: "Connects as the peer NAME, prints what it is sent and sends what is typed. With --to it waits for\n" +
			"that peer, and ends when the input does; without, it answers whoever wrote last until it is stopped.",
		Flags: flagsOf(&s),
		Action: func(c *cli.Context) error {
			if err := o.parseArguments(c.Args().Slice(), &s); err != nil {
				return usageError{err, "relay nc"}
			}
			if _, err := s.FromEnv(p.lookupEnv); err != nil {
				return usageError{err, "relay nc"}
			}
			return p.nc(c.Context, &o)
		},
	}
}

// parseArguments takes the name, and the options behind it, which cli leaves
// alone as it does everything after the first argument.
func (o *ncOptions) parseArguments(args []string, s *setting.Set) error {
	if len(args) == 0 {
		return errors.New("the name of a peer is missing: relay nc alice")
	}
	o.name = args[0]
	fs := flag.NewFlagSet("nc", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	s.Register(fs)
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%q is one argument too many: want one name", fs.Arg(0))
	}
	return nil
}

// tokens returns where the tokens come from.
func (o *ncOptions) tokens() (client.TokenSource, error) {
	secret := o.secret
	switch {
	case secret == "" && o.secretFile == "":
		return nil, usageError{errors.New("--secret is missing: want the relay's secret, in RELAY_AUTH_SECRET or a --secret-file if you like; relay dev prints the whole command"), "relay nc"}
	case o.secretFile != "" && secret != "":
		return nil, usageError{errors.New("--secret and --secret-file are both given: want one of them"), "relay nc"}
	case o.secretFile != "":
		secrets, err := auth.ReadSecretFile(o.secretFile)
		if err != nil {
			return nil, err
		}
		secret = secrets[0]
	}
	if o.named {
		return client.NamedSecretToken(secret, messages.HashID(o.name), ncTokenTTL), nil
	}
	return client.SecretToken(secret, ncTokenTTL), nil
}

// nc joins the terminal to a peer until ctx or, with o.to, the input ends.
func (p *program) nc(ctx context.Context, o *ncOptions) error {
	tokens, err := o.tokens()
	if err != nil {
		return err
	}
	cfg := client.Config{URL: o.url, Name: o.name, Token: tokens, MaxBackoff: ncMaxBackoff}
	if _, err := client.New(cfg); err != nil { // opens nothing
		return usageError{err, "relay nc"}
	}
	n := &netcat{o: o, out: p.stdout, status: p.stderr, talking: make(chan struct{})}
	if n.client, err = n.dial(ctx, cfg); err != nil {
		return unlessDone(ctx, err)
	}
	n.say("connected to %s as %s", n.client.InstanceURL(), n.o.name)
	return n.run(ctx, p.stdin)
}

// netcat is one running `relay nc`.
type netcat struct {
	// Set by nc before run, never changed.
	o      *ncOptions
	client *client.Client

	print  sync.Mutex // guards writing to both
	out    io.Writer
	status io.Writer

	mu      sync.Mutex // guards what follows
	conn    net.Conn   // to whom the next line goes; nil: nobody yet
	talking chan struct{}
}

// run talks until ctx or, with o.to, the input ends, and then sends what is
// queued.
func (n *netcat) run(ctx context.Context, in io.Reader) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer func() {
		flush, cancel := context.WithTimeout(context.Background(), ncFlush)
		defer cancel()
		err = errors.Join(err, n.client.Shutdown(flush))
	}()
	var g errgroup.Group
	g.Go(func() error {
		defer cancel()
		if n.o.to != "" {
			return n.talkTo(ctx, messages.HashID(n.o.to))
		}
		return n.listen(ctx)
	})
	g.Go(func() error {
		err := n.send(ctx, lines(ctx, in))
		if err != nil || n.o.to != "" {
			cancel()
		}
		return err
	})
	return g.Wait()
}

// dial waits for the relay, which may still be starting, and says why it is not
// there. A relay that refuses us will go on doing so.
func (n *netcat) dial(ctx context.Context, cfg client.Config) (*client.Client, error) {
	said := false
	for {
		c, err := client.Dial(ctx, cfg)
		if err == nil || ctx.Err() != nil || errors.Is(err, client.ErrRefused) {
			return c, err
		}
		select {
		case <-time.After(ncRetry):
		case <-ctx.Done():
			return nil, err
		}
		if !said { // not before there was time to start
			said = true
			n.say("trying again: %v", err)
		}
	}
}

// talkTo talks to one peer, each time it comes.
func (n *netcat) talkTo(ctx context.Context, id messages.PeerID) error {
	for {
		n.say("waiting for %s", n.o.to)
		conn, err := n.client.OpenConn(ctx, id)
		if err != nil {
			return unlessDone(ctx, err)
		}
		n.say("%s is here", n.o.to)
		n.answer(conn)
		if err := n.receive(ctx, conn); err != nil {
			return unlessDone(ctx, err)
		}
		n.say("%s has gone", n.o.to)
	}
}

// listen talks to whoever comes.
func (n *netcat) listen(ctx context.Context) error {
	var g errgroup.Group
	for {
		conn, err := n.client.AcceptConn(ctx)
		if err != nil {
			return errors.Join(unlessDone(ctx, err), g.Wait())
		}
		n.say("a peer is here: %s", conn.RemoteAddr())
		n.answer(conn)
		g.Go(func() error {
			err := n.receive(ctx, conn)
			if err == nil {
				n.say("a peer has gone: %s", conn.RemoteAddr())
			}
			return unlessDone(ctx, err)
		})
	}
}

// receive prints what a peer sends until it goes, and then returns nil.
func (n *netcat) receive(ctx context.Context, conn net.Conn) error {
	defer n.left(conn)
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	buf := make([]byte, messages.MaxPayloadSize)
	for {
		size, err := conn.Read(buf)
		if errors.Is(err, client.ErrPeerOffline) {
			return nil
		}
		if err != nil {
			return err
		}
		if n.o.to == "" {
			n.answer(conn)
		}
		n.print.Lock()
		_, err = fmt.Fprintf(n.out, "%s\n", buf[:size])
		n.print.Unlock()
		if err != nil {
			return err
		}
	}
}

// answer sends the next lines to conn.
func (n *netcat) answer(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == nil {
		close(n.talking)
	}
	n.conn = conn
}

// left notes that conn has ended. With o.to the next lines wait for the peer to
// come again.
func (n *netcat) left(conn net.Conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.conn == conn && n.o.to != "" {
		n.conn, n.talking = nil, make(chan struct{})
	}
}

// partner waits until there is somebody to send to; nil when ctx has ended.
func (n *netcat) partner(ctx context.Context) net.Conn {
	for {
		n.mu.Lock()
		conn, talking := n.conn, n.talking
		n.mu.Unlock()
		if conn != nil {
			return conn
		}
		select {
		case <-talking:
		case <-ctx.Done():
			return nil
		}
	}
}

// send sends each line to whoever is there, and waits for the first one.
func (n *netcat) send(ctx context.Context, in <-chan line) error {
	for {
		select {
		case l, ok := <-in:
			if !ok {
				return nil
			}
			if l.err != nil {
				return l.err
			}
			if err := n.sendLine(ctx, l.text); err != nil {
				return unlessDone(ctx, err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *netcat) sendLine(ctx context.Context, text []byte) error {
	for {
		conn := n.partner(ctx)
		if conn == nil {
			return nil
		}
		_, err := conn.Write(text)
		if !errors.Is(err, client.ErrPeerOffline) && !errors.Is(err, net.ErrClosed) {
			return err
		}
		if n.o.to == "" { // the next one to come may be somebody else
			n.say("nobody is there: a line was not sent")
			return nil
		}
		n.left(conn)
	}
}

// say tells the user something that is no message.
func (n *netcat) say(format string, args ...any) {
	n.print.Lock()
	defer n.print.Unlock()
	fmt.Fprintf(n.status, format+"\n", args...)
}

// unlessDone returns err, but nil when it only says that ctx has ended.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

var errLineTooLong = fmt.Errorf("a line is longer than %d bytes, the most that fits a message", messages.MaxPayloadSize)

// line is one line of the input, or why there are no more.
type line struct {
	text []byte // without its end
	err  error
}

// lines reads in, and closes the channel at its end. Its goroutine ends with
// ctx or, when it is waiting for a terminal, with the process: a read from one
// cannot be stopped.
func lines(ctx context.Context, in io.Reader) <-chan line {
	out := make(chan line)
	go func() {
		defer close(out)
		scan := bufio.NewScanner(in)
		scan.Buffer(nil, messages.MaxPayloadSize+len("\r\n"))
		for scan.Scan() {
			l := line{text: bytes.Clone(scan.Bytes())}
			if len(l.text) > messages.MaxPayloadSize {
				l = line{err: errLineTooLong}
			}
			if !put(ctx, out, l) {
				return
			}
		}
		err := scan.Err()
		if errors.Is(err, bufio.ErrTooLong) {
			err = errLineTooLong
		}
		if err != nil {
			put(ctx, out, line{err: err})
		}
	}()
	return out
}

func put(ctx context.Context, out chan<- line, l line) bool {
	select {
	case out <- l:
		return true
	case <-ctx.Done():
		return false
	}
}

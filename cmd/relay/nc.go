package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/messages"
)

// devAddress is where `relay dev` listens and `relay nc` looks for a relay. The
// port is below those that systems give to outgoing connections, any of which
// would be in the way.
const devAddress = "127.0.0.1:7080"

const (
	// ncMaxBackoff is short: a user is waiting at the terminal.
	ncMaxBackoff = 2 * time.Second
	// ncFlush bounds the wait, at the end, for what is queued to be sent.
	ncFlush = 5 * time.Second
	// ncSettle bounds the wait, after Ctrl-C, for what was sent to be confirmed.
	ncSettle = time.Second
	// ncPeers is how many peers are talked to at a time.
	ncPeers = 256
	// ncRetry is the pause before the first connection is tried again.
	ncRetry = time.Second
)

// ncOptions are the options of `relay nc`.
type ncOptions struct {
	access
	name, to string
	timeout  time.Duration
}

func (p *program) ncCommand() *command {
	var o ncOptions
	var s setting.Set
	s.Func("to", "", "`NAME` of the peer to talk to; without it, the first peer that writes", peerName(&o.to))
	s.Duration(&o.timeout, "timeout", 0, "`TIME` to wait for the relay, for a peer or for a confirmation before nc fails; 0 means without end")
	o.addURL("rel://"+devAddress, "`ADDRESS` of the relay, rel:// or, with TLS, rels://; or the variable RELAY_URL").AlsoEnv("EXPOSED_ADDRESS")
	o.addSecret()
	o.addToken()
	o.addTLS()
	return &command{
		name: "nc", argument: "NAME", short: "join the terminal to a peer, a line a message",
		about: "Connects as the peer NAME, prints what it is sent and sends what is typed. With --to it waits for that peer, " +
			"and ends when the input does; without, it answers the peer that wrote last until it is stopped.\n" +
			"Between two relay nc each line is confirmed: a pipe waits for its reader, and lines that were not " +
			"confirmed end it with 1. Other programs get a line a message.",
		examples: []string{
			"relay nc dave",
			"seq 5000 | relay nc carol --to dave --timeout 10s",
			"relay nc alice --url rels://relay.example.com --token-file token",
		},
		options: []*setting.Set{&s, &o.set},
		run: func(ctx context.Context, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("the name of a peer is missing: relay nc alice"), "relay nc"}
			}
			o.name = args[0]
			if err := o.read(p.lookupEnv); err != nil {
				return usageError{err, "relay nc"}
			}
			return p.nc(ctx, &o)
		},
	}
}

// nc joins the terminal to a peer until ctx or, with o.to, the input ends.
func (p *program) nc(ctx context.Context, o *ncOptions) error {
	tokens, err := o.tokens(o.name)
	if usage, ok := errors.AsType[usageError](err); ok {
		usage.command = "relay nc"
		return usage
	}
	if err != nil {
		return err
	}
	trust, err := o.tlsConfig()
	if err != nil {
		return usageError{err, "relay nc"}
	}
	cfg := client.Config{URL: o.url, Name: o.name, Token: tokens, TLSConfig: trust, MaxBackoff: ncMaxBackoff}
	if _, err := client.New(cfg); err != nil { // opens nothing
		return usageError{err, "relay nc"}
	}
	n := newNetcat(o, p.stdout, p.stderr)
	n.cut = p.cut
	n.plain = isTerminal(p.stdout)
	if n.client, err = n.dial(ctx, cfg); err != nil {
		return unlessDone(ctx, err)
	}
	n.say("connected to %s as %s", o.url, o.name)
	if own := n.client.InstanceURL(); own != o.url {
		n.say("the relay calls itself %s", own)
	}
	return n.run(ctx, p.stdin)
}

// netcat is one running `relay nc`.
type netcat struct {
	// Set before run, never changed.
	o        *ncOptions
	client   *client.Client
	instance uint64          // see talk.go
	stop     func(error)     // ends run with an error
	cut      context.Context // ends the wait for what is under way
	plain    bool            // a peer's control characters are shown, not printed

	printing sync.Mutex // guards writing to out
	out      io.Writer
	telling  sync.Mutex // guards writing to status
	status   io.Writer

	taken     atomic.Int64 // lines of the input
	delivered atomic.Int64 // of these: confirmed, or sent to a peer that confirms nothing
	blind     atomic.Int64 // of these: the latter
	unsure    atomic.Int64 // of these: sent before the connection to the relay was lost
	dropped   atomic.Int64 // messages of peers that were not printed in time
	others    atomic.Bool  // a peer that numbers nothing has written
	progress  atomic.Int64 // when something last went on, or nothing was waited for

	mu      sync.Mutex // guards what follows
	talks   map[messages.PeerID]*talk
	current *talk         // to whom the next line goes; nil: no peer yet
	came    chan struct{} // closed when there is a current
}

func newNetcat(o *ncOptions, out, status io.Writer) *netcat {
	n := &netcat{
		o: o, instance: 1 + rand.Uint64N(math.MaxUint64), cut: context.Background(), out: out, status: status,
		talks: make(map[messages.PeerID]*talk), came: make(chan struct{}),
	}
	n.progressed()
	return n
}

// run talks until ctx or, with o.to, the input ends. Its error says what was not
// delivered.
func (n *netcat) run(ctx context.Context, in io.Reader) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	n.stop = stop
	work, end := context.WithCancel(n.cut) // what is under way when ctx ends
	defer end()
	var working sync.WaitGroup
	working.Go(func() { stop(n.meet(work)) })
	working.Go(func() { n.watch(work) })
	working.Go(func() {
		if err := n.send(ctx, n.lines(ctx, in)); err != nil || n.o.to != "" {
			stop(err)
		}
	})
	<-ctx.Done()
	n.settle(work)
	end()
	stopped := make(chan struct{})
	go func() {
		working.Wait()
		close(stopped)
	}()
	select {
	case <-stopped:
	case <-n.cut.Done(): // the output takes nothing
	}
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return errors.Join(err, n.close(), n.verdict())
}

// settle waits a moment, where there is hope, until all is confirmed.
func (n *netcat) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, ncSettle)
	defer cancel()
	for _, t := range n.all() {
		if t.here() && n.client.State() == client.StateConnected {
			t.emptied(ctx)
		}
	}
}

// close sends what is queued, where there is a relay to send it to.
func (n *netcat) close() error {
	if n.client.State() != client.StateConnected {
		return n.client.Close()
	}
	ctx, cancel := context.WithTimeout(n.cut, ncFlush)
	defer cancel()
	if err := n.client.Shutdown(ctx); err != nil && n.blind.Load() > 0 {
		return err // what else is queued is sent again or of no use
	}
	return nil
}

// verdict returns an error that says what was lost; nil: nothing was.
func (n *netcat) verdict() error {
	var errs []error
	if taken, left := n.taken.Load(), n.taken.Load()-n.delivered.Load(); left > 0 {
		by := n.o.to
		if by == "" {
			by = "a peer"
		}
		errs = append(errs, fmt.Errorf("%d of %d lines were not confirmed by %s", left, taken, by))
	}
	if k := n.unsure.Load(); k > 0 {
		errs = append(errs, fmt.Errorf("%d lines went to a peer that confirms nothing before the connection was lost: some may be lost", k))
	}
	if k := n.dropped.Load(); k > 0 {
		errs = append(errs, fmt.Errorf("%d messages were lost: they came faster than they were printed", k))
	}
	return errors.Join(errs...)
}

// dial waits for the relay, which may still be starting. It gives up on what
// waiting does not mend: a relay that refuses us, a wrong scheme, a certificate
// that is not trusted.
func (n *netcat) dial(ctx context.Context, cfg client.Config) (*client.Client, error) {
	if n.o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, n.o.timeout)
		defer cancel()
	}
	said := false
	for {
		c, err := client.Dial(ctx, cfg)
		_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
		if untrusted {
			return nil, fmt.Errorf("%w; --ca-file names the certificates to trust", err)
		}
		if err == nil || errors.Is(err, client.ErrRefused) || errors.Is(err, client.ErrWrongScheme) {
			return c, err
		}
		select {
		case <-time.After(ncRetry):
		case <-ctx.Done():
			return nil, fmt.Errorf("no relay at %s within %v: %w", cfg.URL, n.o.timeout, shortly(err))
		}
		if !said { // not before there was time to start
			said = true
			if errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				n.say("waiting for the relay at %s", cfg.URL)
			} else {
				n.say("waiting for the relay at %s: %v", cfg.URL, shortly(err))
			}
		}
	}
}

// shortly returns what a user needs of why a relay is not reached, where that is
// known.
func shortly(err error) error {
	if name, ok := errors.AsType[*net.DNSError](err); ok {
		return name
	}
	if system, ok := errors.AsType[syscall.Errno](err); ok {
		return system
	}
	return err
}

// watch tells the user of the connection to the relay, and ends run when what is
// waited for does not come within the timeout.
func (n *netcat) watch(ctx context.Context) {
	tick := time.NewTicker(offlinePause)
	defer tick.Stop()
	ended, cancel := context.WithCancel(ctx)
	cancel()
	online, made, refused := true, n.client.Stats().Connections, false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		stats, now := n.client.Stats(), n.client.State() == client.StateConnected
		if online && (!now || stats.Connections != made) {
			online, refused = false, false
			n.unsure.Store(n.blind.Load())
			n.say("lost the relay at %s: trying to reach it again", n.o.url)
		}
		if !online && now {
			online, made = true, stats.Connections
			n.say("connected to the relay again")
			n.progressed()
		}
		if !online && !refused && errors.Is(n.client.WaitConnected(ended), client.ErrRefused) {
			refused = true
			n.say("the relay refuses the connection: is the secret or token still right?")
		}
		if k := int64(stats.Dropped.ReceiveQueueFull); n.others.Load() && k > n.dropped.Load() {
			n.say("messages that came faster than they were printed, and are lost: %d", k-n.dropped.Swap(k))
		}
		switch what := n.missing(online); {
		case what == "":
			n.progressed()
		case n.o.timeout > 0 && time.Since(n.lastProgress()) >= n.o.timeout:
			n.stop(fmt.Errorf("%s for %v", what, n.o.timeout))
			return
		}
	}
}

// missing says what is waited for, "" for nothing.
func (n *netcat) missing(online bool) string {
	here := 0
	for _, t := range n.all() {
		if t.here() {
			here++
		}
	}
	switch {
	case !online:
		return "no relay at " + n.o.url
	case here == 0 && n.o.to != "":
		return n.o.to + " was not there"
	case here == 0:
		return "no peer was there"
	case n.taken.Load() > n.delivered.Load():
		return "nothing was confirmed"
	}
	return ""
}

func (n *netcat) progressed()             { n.progress.Store(time.Now().UnixNano()) }
func (n *netcat) lastProgress() time.Time { return time.Unix(0, n.progress.Load()) }

// meet talks to one peer by name, or to every peer that writes, until ctx ends.
func (n *netcat) meet(ctx context.Context) error {
	if n.o.to != "" {
		return n.talkTo(ctx, messages.HashID(n.o.to))
	}
	return n.listen(ctx)
}

// talkTo talks to one peer, each time it comes.
func (n *netcat) talkTo(ctx context.Context, id messages.PeerID) error {
	t := n.talk(id)
	n.answer(t)
	for {
		n.say("waiting for %s", n.o.to)
		conn, err := n.client.OpenConn(ctx, id)
		if err != nil {
			return unlessDone(ctx, err)
		}
		n.say("%s is here", n.o.to)
		if err := n.serve(ctx, t, conn); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// listen talks to every peer that writes.
func (n *netcat) listen(ctx context.Context) error {
	var serving sync.WaitGroup
	defer serving.Wait()
	for {
		conn, err := n.client.AcceptConn(ctx)
		if err != nil {
			return unlessDone(ctx, err)
		}
		t := n.talk(messages.PeerID(conn.RemoteAddr().(client.Addr)))
		if t == nil {
			_ = conn.Close() // there are too many
			continue
		}
		n.answer(t)
		serving.Go(func() {
			if err := n.serve(ctx, t, conn); err != nil {
				n.stop(err)
			}
		})
	}
}

// serve talks to the peer on conn until it goes or ctx ends, and then returns nil.
func (n *netcat) serve(ctx context.Context, t *talk, conn net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() {
		// Not Close: a line that has been printed is still confirmed.
		_ = conn.SetReadDeadline(time.Now())
		_ = conn.SetWriteDeadline(time.Now().Add(ncSettle))
	})
	defer stop()
	t.open(conn)
	var pumping sync.WaitGroup
	pumping.Go(func() { t.pump(ctx, conn) })
	err := t.read(conn)
	gone := ctx.Err() == nil
	cancel()
	_ = conn.Close()
	pumping.Wait()
	t.close(gone)
	return err
}

// talk returns the conversation with a peer, a new one if there was none; nil when
// there are too many.
func (n *netcat) talk(id messages.PeerID) *talk {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.talks[id]; t != nil {
		return t
	}
	for old, t := range n.talks {
		if len(n.talks) >= ncPeers && !t.here() {
			delete(n.talks, old)
		}
	}
	if len(n.talks) >= ncPeers {
		return nil
	}
	t := newTalk(n, id, n.o.to != "")
	n.talks[id] = t
	return t
}

func (n *netcat) all() []*talk {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Collect(maps.Values(n.talks))
}

// answer sends the next lines to t.
func (n *netcat) answer(t *talk) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.current == nil {
		close(n.came)
	}
	n.current = t
}

// partner waits until there is a peer to send to; nil when ctx has ended.
func (n *netcat) partner(ctx context.Context) *talk {
	select {
	case <-n.came:
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.current
	case <-ctx.Done():
		return nil
	}
}

// send gives each line to the peer of the moment, waits for the first one and,
// with o.to, until all is confirmed.
func (n *netcat) send(ctx context.Context, in <-chan line) error {
	for {
		var l line
		more := false
		select {
		case l, more = <-in:
		case <-ctx.Done():
			return nil
		}
		if l.err != nil {
			return l.err
		}
		if !more && n.o.to == "" {
			return nil
		}
		t := n.partner(ctx)
		if t == nil {
			return nil
		}
		if !more {
			t.emptied(ctx)
			return nil
		}
		// Another peer that comes meanwhile need not be the one that was meant.
		if !t.add(ctx, l.text) && ctx.Err() == nil {
			n.say("no peer is here: a line was not sent")
		}
	}
}

// printLine prints a line of the peer of t, and answers it from now on.
func (n *netcat) printLine(t *talk, text []byte) error {
	n.answer(t)
	if n.plain {
		text = []byte(visible(string(text)))
	}
	n.printing.Lock()
	defer n.printing.Unlock()
	_, err := n.out.Write(append(slices.Clip(text), '\n'))
	return err
}

// say tells the user something that is no message.
func (n *netcat) say(format string, args ...any) {
	n.telling.Lock()
	defer n.telling.Unlock()
	fmt.Fprintln(n.status, visible(fmt.Sprintf(format, args...)))
}

// visible returns text with what a terminal would obey, or could be deceived by,
// written as Go writes it in a string.
func visible(text string) string {
	const joiners = "\u200c\u200d" // parts of words, and of pictures
	var b strings.Builder
	for rest := text; rest != ""; {
		r, size := utf8.DecodeRuneInString(rest)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, rest[0])
		case r == '\t' || unicode.IsGraphic(r) || strings.ContainsRune(joiners, r):
			b.WriteString(rest[:size])
		default:
			b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
		rest = rest[size:]
	}
	return b.String()
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
func (n *netcat) lines(ctx context.Context, in io.Reader) <-chan line {
	out := make(chan line)
	go func() {
		defer close(out)
		scan := bufio.NewScanner(in)
		scan.Buffer(nil, messages.MaxPayloadSize+len("\r\n"))
		for scan.Scan() {
			n.taken.Add(1)
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

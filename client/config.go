package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/crosspod/crosspod/messages"
)

// Defaults of [Config], and times that cannot be configured.
const (
	defaultMinBackoff    = 250 * time.Millisecond
	defaultMaxBackoff    = 30 * time.Second
	defaultDialTimeout   = 30 * time.Second
	defaultHealthTimeout = 35 * time.Second
	defaultAcceptBacklog = 128

	// authTimeout is how long the client waits for the AuthResponse after Auth is
	// sent, as existing clients do.
	authTimeout = 8 * time.Second
	// stallTimeout is how long the relay may read nothing before the connection is
	// cut.
	stallTimeout = 10 * time.Second
	// tickPeriod is how often a connection checks what has expired. It divides the
	// default health timeout.
	tickPeriod = 5 * time.Second
	// After a reconnect, a peer that was online before has as long to come back as
	// we were away, within these limits, before it counts as gone. When a pod or the
	// relay stops, the connections of peers end at the same moment as ours; existing
	// clients wait 1.5 s and then up to 60 s, ours up to 45 s.
	minConfirmGrace = 10 * time.Second
	maxConfirmGrace = time.Minute
	// earlyTTL is how long a message from a peer without a Conn is kept.
	earlyTTL = 5 * time.Second
	// closeLinger is how long Shutdown waits for the relay to close the connection
	// after the Close message. If we closed first, with unread bytes from the relay in
	// the socket, the kernel would discard data that is still on its way.
	closeLinger = 2 * time.Second

	maxURLs = 7

	// dialPatience is how long an attempt to open a network connection may take
	// before another one begins beside it, of maxDials in all for each address.
	// TCP sends its first packet again after 1 s.
	dialPatience = 2 * time.Second
	maxDials     = 4
)

var (
	defaultSendQueue    = QueueLimits{Messages: 1024, Bytes: 512 << 10}
	defaultReceiveQueue = QueueLimits{Messages: 256, Bytes: 512 << 10}
	defaultPacketQueue  = QueueLimits{Messages: 2048, Bytes: 2 << 20}
	// earlyQueue bounds the messages kept for one peer that has no Conn yet.
	earlyQueue = QueueLimits{Messages: 16, Bytes: 32 << 10}
)

// QueueLimits bounds a queue of messages. The queue is full when either limit
// is reached. A zero field stands for its default.
type QueueLimits struct {
	// Messages is a number of messages.
	Messages int
	// Bytes is the size of the queued messages together, the 38 bytes of
	// their headers included; at least [messages.MaxSize].
	Bytes int
}

func (l QueueLimits) orDefault(d QueueLimits) QueueLimits {
	if l.Messages == 0 {
		l.Messages = d.Messages
	}
	if l.Bytes == 0 {
		l.Bytes = d.Bytes
	}
	return l
}

func (l QueueLimits) check(name string) error {
	if l.Messages < 0 {
		return fmt.Errorf("%s: %d messages, must be positive", name, l.Messages)
	}
	if l.Bytes != 0 && l.Bytes < messages.MaxSize {
		return fmt.Errorf("%s: %d bytes do not hold the largest message, %d", name, l.Bytes, messages.MaxSize)
	}
	return nil
}

// TokenSource returns the token for the relay, at most [messages.MaxTokenSize] bytes.
// It is called once for each connection attempt, so a token may be short-lived; ctx
// ends with the attempt. The client does not change the bytes. See [StaticToken] and
// [SecretToken].
type TokenSource func(ctx context.Context) ([]byte, error)

// Config says which relay to use and which peer to be. URL (or URLs), Token and one
// of PeerID and Name are required. The zero value of every other field is a good
// choice.
type Config struct {
	// URL is the address of the relay: "rels://relay.example.com" (TLS,
	// default port 443), "rel://10.0.0.7:8080" (plain, default port 80), or
	// "relay.example.com:443", which means rels. IPv6 literals are written in
	// brackets. A path is ignored: relays serve "/relay" only.
	URL string

	// URLs are further addresses, at most 7 together with URL. Every attempt
	// tries all of them at once; the first complete handshake wins and the
	// others are closed.
	URLs []string

	// PeerID is the id to connect as. Relays hold one connection for each id,
	// the newest: see the package documentation on two programs with one id.
	PeerID messages.PeerID

	// Name is the text whose hash is the id ([messages.HashID]). Set either
	// Name or PeerID.
	Name string

	// Token proves to the relay that the client may connect.
	Token TokenSource

	// TLSConfig is used for rels addresses; nil means the system's roots and
	// the host of the address as server name. It is cloned, and its
	// NextProtos are ignored: relays expect none.
	TLSConfig *tls.Config

	// DialContext opens the network connections; nil means a [net.Dialer]. Proxy
	// variables of the environment are not used. It must return when ctx ends. If a
	// call takes more than 2 s, the client starts another one beside it, up to 4 for
	// each address, because the path of the first may be dead. A connection that
	// carries messages by itself, as relay.(*Server).DialPeer returns, is used without
	// TLS and WebSocket.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Logger logs the life of the connection; nil means nothing is logged.
	Logger *slog.Logger

	// MinBackoff is the pause before the first attempt to reconnect. Each further
	// pause is twice as long, up to MaxBackoff; all are spread by ±50 %. After a
	// Close from the relay, which a stopping pod sends, the first attempt comes
	// within 50 ms in any case. Defaults: 250 ms and 30 s.
	MinBackoff, MaxBackoff time.Duration

	// DialTimeout bounds one attempt to connect: name lookup, TCP, TLS, HTTP and
	// the relay's answer to the token. For that answer alone the client waits at
	// most 8 s. Default 30 s.
	DialTimeout time.Duration

	// HealthTimeout is how long the client waits for a HealthCheck of the relay
	// before it closes the connection. Relays send one at least every 25 s. Default
	// 35 s; to tolerate n missed ones, use n times that. It is rounded up to a
	// multiple of 5 s.
	HealthTimeout time.Duration

	// SendQueue bounds the messages that wait to be sent, to all peers together.
	// Defaults: 1024 messages, 512 KiB. See the package documentation for what
	// happens when it is full.
	SendQueue QueueLimits

	// ReceiveQueue bounds the messages that one Conn has received and not yet read.
	// When it is full the oldest message is dropped. Defaults: 256 messages, 512
	// KiB.
	ReceiveQueue QueueLimits

	// PacketQueue is the same for the PacketConn. Defaults: 2048 messages, 2
	// MiB.
	PacketQueue QueueLimits

	// AcceptBacklog is the number of peers without a Conn whose first messages are
	// kept, at most 16 messages and 32 KiB each, for 5 s, until AcceptConn or
	// OpenConn takes them. Messages of further peers are dropped. Default 128.
	AcceptBacklog int
}

// complete checks c and returns a copy with every default filled in.
func (c Config) complete() (Config, []target, error) {
	urls := c.URLs
	if c.URL != "" {
		urls = append([]string{c.URL}, urls...)
	}
	if len(urls) == 0 {
		return c, nil, errors.New("client: Config.URL is required")
	}
	if len(urls) > maxURLs {
		return c, nil, fmt.Errorf("client: %d relay addresses, at most %d are tried at once", len(urls), maxURLs)
	}
	targets := make([]target, len(urls))
	for i, u := range urls {
		t, err := parseURL(u)
		if err != nil {
			return c, nil, fmt.Errorf("client: relay address %q: %w", u, err)
		}
		targets[i] = t
	}
	switch {
	case c.PeerID == messages.PeerID{} && c.Name == "":
		return c, nil, errors.New("client: one of Config.PeerID and Config.Name is required")
	case c.PeerID != messages.PeerID{} && c.Name != "":
		return c, nil, errors.New("client: both Config.PeerID and Config.Name are set")
	case c.Name != "":
		c.PeerID = messages.HashID(c.Name)
	}
	if c.Token == nil {
		return c, nil, errors.New("client: Config.Token is required")
	}
	for _, d := range []struct {
		name  string
		value *time.Duration
		std   time.Duration
	}{
		{"MinBackoff", &c.MinBackoff, defaultMinBackoff},
		{"MaxBackoff", &c.MaxBackoff, max(defaultMaxBackoff, c.MinBackoff)},
		{"DialTimeout", &c.DialTimeout, defaultDialTimeout},
		{"HealthTimeout", &c.HealthTimeout, defaultHealthTimeout},
	} {
		if *d.value < 0 {
			return c, nil, fmt.Errorf("client: Config.%s is negative: %v", d.name, *d.value)
		}
		if *d.value == 0 {
			*d.value = d.std
		}
	}
	if c.MinBackoff > c.MaxBackoff {
		return c, nil, fmt.Errorf("client: Config.MinBackoff %v is above MaxBackoff %v", c.MinBackoff, c.MaxBackoff)
	}
	for _, q := range []struct {
		name   string
		limits *QueueLimits
		std    QueueLimits
	}{
		{"SendQueue", &c.SendQueue, defaultSendQueue},
		{"ReceiveQueue", &c.ReceiveQueue, defaultReceiveQueue},
		{"PacketQueue", &c.PacketQueue, defaultPacketQueue},
	} {
		if err := q.limits.check("Config." + q.name); err != nil {
			return c, nil, fmt.Errorf("client: %w", err)
		}
		*q.limits = q.limits.orDefault(q.std)
	}
	if c.AcceptBacklog < 0 {
		return c, nil, fmt.Errorf("client: Config.AcceptBacklog is negative: %d", c.AcceptBacklog)
	}
	if c.AcceptBacklog == 0 {
		c.AcceptBacklog = defaultAcceptBacklog
	}
	if c.DialContext == nil {
		c.DialContext = (&net.Dialer{}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c, targets, nil
}

package ws

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/crosspod/crosspod/relay/listener"
)

type socketKey struct{}

// withSocket lets the handler find the socket below net/http's connection.
func withSocket(ctx context.Context, conn net.Conn) context.Context {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	return context.WithValue(ctx, socketKey{}, conn)
}

// upgrader is the HTTP side of a listener: it answers the one request of a
// connection.
type upgrader struct {
	l      *Listener
	accept func(listener.Conn)
}

// ServeHTTP upgrades a request for [Path] and hands the connection on; the rest
// goes to the handlers of Config.Mux. It checks no origin: what a peer may do rests
// on its token, which a browser does not hold for the pages it shows.
func (u *upgrader) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.l.started()
	defer u.l.ended()
	s := r.Context().Value(socketKey{}).(*socket)

	once := &onceWriter{ResponseWriter: w, socket: s}
	peer := r.URL.Path == Path
	pattern := ""
	if !peer {
		if u.l.mux == nil {
			http.NotFound(once, r)
			return
		}
		_, pattern = u.l.mux.Handler(r)
	}
	// A request for /relay that is no upgrade, or one that no handler wants, is a
	// check by the proxy itself, for no client.
	if (pattern != "" || peer && r.Header.Get("Upgrade") != "") && !s.half.Forwarded(r.Header) {
		s.refuse(listener.OutcomeRefusedSource)
		http.Error(once, "too many failed handshakes", http.StatusTooManyRequests)
		return
	}
	if !peer {
		u.serveOther(w, r, s)
		return
	}
	lib, err := websocket.Accept(once, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // any origin
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		return // Accept has answered
	}
	// The library's part ends with the 101. Its Conn must not be left to the
	// finalizer that closes the stand-in.
	_ = lib.CloseNow()
	c := newConn(s, once.tls, once.early, u.l.limit, u.l.stall)
	c.features(r.Header)
	u.accept(c)
}

// serveOther lets a handler of Config.Mux answer. Its answer decides what the
// connection counts as.
func (u *upgrader) serveOther(w http.ResponseWriter, r *http.Request, s *socket) {
	s.half.OutlivesGate()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(u.l.cut, cancel)()
	r = r.WithContext(ctx)
	r.RemoteAddr = s.half.RemoteAddr().String()

	w.Header().Set("Connection", "close")
	out := &otherWriter{ResponseWriter: w, half: s.half}
	returned := false
	defer func() { // also when the handler panics, as with [http.ErrAbortHandler]
		switch {
		case out.code == http.StatusUnauthorized, out.code == http.StatusForbidden:
			s.refuse(listener.OutcomeBadAuth)
		case returned && out.code < http.StatusBadRequest:
			s.refuse(listener.OutcomeOK)
		default:
			s.answered.Store(true)
		}
	}()
	u.l.mux.ServeHTTP(out, r)
	returned = true
	if out.taken {
		return
	}
	// Else net/http waits for the rest of a body that was not read.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now())
}

// otherWriter is what a handler of another path answers with. A handler that takes
// the connection over has checked who is there, so its place in the gate is free.
type otherWriter struct {
	http.ResponseWriter
	half *listener.HalfOpen
	code int // of the answer, 0 until it is written

	taken bool // by Hijack
}

func (w *otherWriter) WriteHeader(code int) {
	if w.code < http.StatusOK {
		w.code = code
	}
	w.ResponseWriter.WriteHeader(code)
}

// Hijack implements [http.Hijacker].
func (w *otherWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if !w.half.Established() {
		return nil, nil, net.ErrClosed
	}
	w.taken = true
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Unwrap is for [http.ResponseController].
func (w *otherWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// onceWriter answers a connection's only request: it closes after any answer
// but 101, and its Hijack keeps the connection for us and hands a stand-in to
// the library, so that nothing of net/http or the library lives on.
type onceWriter struct {
	http.ResponseWriter
	socket *socket
	tls    *tls.Conn // nil without TLS
	early  []byte    // what the client sent behind its request
}

func (w *onceWriter) WriteHeader(code int) {
	if code != http.StatusSwitchingProtocols {
		w.Header().Set("Connection", "close")
		if w.socket.verdict.Load() == nil {
			w.socket.answered.Store(true)
		}
	}
	w.ResponseWriter.WriteHeader(code)
}

// Hijack implements [http.Hijacker].
func (w *onceWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, err
	}
	w.tls, _ = conn.(*tls.Conn)
	w.early = bytes.Clone(early) // a client may send Auth with its request
	const least = 16             // bytes, the smallest bufio allocates
	return standIn{}, bufio.NewReadWriter(
		bufio.NewReaderSize(standIn{}, least), bufio.NewWriterSize(standIn{}, least)), nil
}

// standIn is what the library believes to be the connection. It is at its end.
type standIn struct{ net.Conn }

func (standIn) Read([]byte) (int, error)    { return 0, io.EOF }
func (standIn) Write(p []byte) (int, error) { return len(p), nil }
func (standIn) Close() error                { return nil }

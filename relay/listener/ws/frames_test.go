package ws_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// First bytes of frames.
const (
	fin          = 0x80
	continuation = 0x0
	text         = 0x1
	binary_      = 0x2
	closing      = 0x8
	ping         = 0x9
	pong         = 0xa
)

const maxMessage = ws.DefaultMaxMessage

// appendFrame appends a masked frame whose first byte is b0, its length in the
// shortest form.
func appendFrame(dst []byte, b0 byte, key uint32, payload []byte) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, b0, 0x80|byte(n))
	case n <= 0xffff:
		dst = append(dst, b0, 0x80|126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, b0, 0x80|127), uint64(n))
	}
	return appendMasked(dst, key, payload)
}

func appendMasked(dst []byte, key uint32, payload []byte) []byte {
	var mask [4]byte
	binary.BigEndian.PutUint32(mask[:], key)
	dst = append(dst, mask[:]...)
	for i, v := range payload {
		dst = append(dst, v^mask[i%4])
	}
	return dst
}

// frame returns one masked frame.
func frame(b0 byte, payload string) []byte {
	return appendFrame(nil, b0, 0xa1b2c3d4, []byte(payload))
}

func frames(list ...[]byte) []byte { return bytes.Join(list, nil) }

// closeFrame returns a close frame with a code and a reason.
func closeFrame(code int, reason string) []byte {
	return frame(fin|closing, string(binary.BigEndian.AppendUint16(nil, uint16(code)))+reason)
}

// filler returns n bytes that differ from their neighbours.
func filler(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return string(b)
}

// Ends of a conversation besides a close code.
const (
	noCode = -1 // a close frame without a code
	gone   = -2 // no close frame: the client ended the connection
)

// script is what a client sends and what must come of it.
type script struct {
	name  string
	in    []byte
	msgs  []string // the messages handed up
	pongs []string // the payloads of the pongs sent
	code  int      // of the close frame sent, or noCode or gone
}

// result is what came of a script.
type result struct {
	msgs, pongs []string
	code        int
	err         error // of NextMessage
	after       int   // frames sent behind the close frame
}

// check compares r with what s wants. Of the pings of one read only the newest has
// to be answered.
func (s script) check(t *testing.T, how string, r result) {
	t.Helper()
	if !slices.Equal(r.msgs, s.msgs) {
		t.Errorf("%s: messages %s, want %s", how, short(r.msgs), short(s.msgs))
	}
	if !newestOf(r.pongs, s.pongs) {
		t.Errorf("%s: pongs %s, want some of %s and the last", how, short(r.pongs), short(s.pongs))
	}
	if r.code != s.code {
		t.Errorf("%s: close code %d, want %d (%v)", how, r.code, s.code, r.err)
	}
	if r.after > 0 {
		t.Errorf("%s: %d frames after the close frame", how, r.after)
	}
	refused := s.code == 1002 || s.code == 1003 || s.code == 1007 || s.code == 1009
	if echoes := bytes.Contains(s.in, closeFrame(s.code, "")); refused && !echoes && !errors.Is(r.err, listener.ErrMessage) {
		t.Errorf("%s: error %v, want one that wraps ErrMessage", how, r.err)
	}
	if (s.code == noCode || s.code == 1000) && r.err != io.EOF {
		t.Errorf("%s: error %v, want io.EOF", how, r.err)
	}
	if s.code == gone && r.err != io.EOF && r.err != io.ErrUnexpectedEOF {
		t.Errorf("%s: error %v, want an end of file", how, r.err)
	}
}

// newestOf reports whether got is a part of want, in order, with its last.
func newestOf(got, want []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	return len(got) > 0 && got[len(got)-1] == want[len(want)-1] && someOf(got, want)
}

// someOf reports whether got is a part of want, in order.
func someOf(got, want []string) bool {
	for _, w := range want {
		if len(got) > 0 && got[0] == w {
			got = got[1:]
		}
	}
	return len(got) == 0
}

func short(list []string) string {
	var out []string
	for _, s := range list {
		if len(s) > 20 {
			s = fmt.Sprintf("%s… of %d", s[:8], len(s))
		}
		out = append(out, s)
	}
	return fmt.Sprintf("%q", out)
}

// readAll reads c to its end and closes it.
func readAll(c *ws.Conn) (msgs []string, err error) {
	defer c.Close()
	for {
		msg, more, err := c.NextMessage()
		if err != nil {
			return msgs, err
		}
		msgs = append(msgs, string(msg))
		for i := range msg {
			msg[i] ^= 0x55 // the caller may overwrite it
		}
		if more && c.Held() == 0 {
			return msgs, errors.New("more without a buffer")
		}
	}
}

// parseSent parses what the server sent: unmasked frames, each whole.
func parseSent(tb testing.TB, b []byte) (r result) {
	tb.Helper()
	r.code = gone
	for len(b) > 0 {
		if len(b) < 2 || b[0]&0xf0 != fin || b[1] > 125 || len(b) < 2+int(b[1]) {
			tb.Fatalf("the server sent %x, want unmasked control frames", b)
		}
		if r.code != gone {
			r.after++
		}
		body := b[2 : 2+int(b[1])]
		switch b[0] &^ fin {
		case pong:
			r.pongs = append(r.pongs, string(body))
		case closing:
			r.code = noCode
			if len(body) >= 2 {
				r.code = int(binary.BigEndian.Uint16(body))
			}
		default:
			tb.Fatalf("the server sent a frame that starts with %#x", b[0])
		}
		b = b[2+len(body):]
	}
	return r
}

// feeding is a socket whose other end is fed with the next piece whenever
// the reader has emptied it, so that each piece is one read.
type feeding struct {
	net.Conn
	other  net.Conn
	pieces [][]byte
}

func (f *feeding) SyscallConn() (syscall.RawConn, error) {
	raw, err := f.Conn.(syscall.Conn).SyscallConn()
	return &feedingRaw{raw, f}, err
}

type feedingRaw struct {
	syscall.RawConn
	f *feeding
}

func (r *feedingRaw) Read(fn func(uintptr) bool) error {
	return r.RawConn.Read(func(fd uintptr) bool {
		if fn(fd) {
			return true
		}
		if len(r.f.pieces) == 0 {
			r.f.other.(interface{ CloseWrite() error }).CloseWrite()
			return false
		}
		next := r.f.pieces[0]
		if room := 32 << 10; len(next) > room { // must fit the socket
			r.f.pieces[0], next = next[room:], next[:room]
		} else {
			r.f.pieces = r.f.pieces[1:]
		}
		r.f.other.Write(next)
		return false
	})
}

// overSocket runs pieces through a Conn on a real socket, one read for each.
func overSocket(tb testing.TB, pieces [][]byte) result {
	tb.Helper()
	server, client := socketPair(tb)
	defer client.Close()
	c := ws.NewTestConn(&feeding{server, client, withBytes(pieces)}, nil, nil, time.Second)
	msgs, err := readAll(c)
	if held := c.Held(); held != 0 {
		tb.Errorf("%d bytes of buffers kept after the end", held)
	}
	sent, rerr := io.ReadAll(client)
	if rerr != nil && !errors.Is(rerr, syscall.ECONNRESET) { // what was not read at the end
		tb.Fatal(rerr)
	}
	r := parseSent(tb, sent)
	r.msgs, r.err = msgs, err
	return r
}

// withBytes returns a copy of pieces without the empty ones.
func withBytes(pieces [][]byte) [][]byte {
	return slices.DeleteFunc(slices.Clone(pieces), func(p []byte) bool { return len(p) == 0 })
}

// inMemory is a connection without a descriptor: one piece each Read.
type inMemory struct {
	net.Conn // nil: the rest is not called
	pieces   [][]byte
	sent     bytes.Buffer
}

func (m *inMemory) Read(p []byte) (int, error) {
	if len(m.pieces) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.pieces[0])
	m.pieces[0] = m.pieces[0][n:]
	if len(m.pieces[0]) == 0 {
		m.pieces = m.pieces[1:]
	}
	return n, nil
}

func (m *inMemory) Write(p []byte) (int, error)      { return m.sent.Write(p) }
func (m *inMemory) Close() error                     { return nil }
func (m *inMemory) SetWriteDeadline(time.Time) error { return nil }
func (m *inMemory) RemoteAddr() net.Addr             { return &net.UnixAddr{} }

// overPlain runs pieces through a Conn on the plain path.
func overPlain(tb testing.TB, pieces [][]byte) result {
	tb.Helper()
	m := &inMemory{pieces: withBytes(pieces)}
	msgs, err := readAll(ws.NewTestConn(m, nil, nil, time.Second))
	r := parseSent(tb, m.sent.Bytes()) // Close has waited for who was writing
	r.msgs, r.err = msgs, err
	return r
}

// overTLS runs pieces through a Conn over TLS on a real socket, each a record.
func overTLS(tb testing.TB, serverTLS, clientTLS *tls.Config, pieces [][]byte) result {
	tb.Helper()
	server, client := tcpPair(tb)
	tlsClient := tls.Client(client, clientTLS)
	answer := make(chan []byte, 1)
	go func() {
		defer close(answer)
		if err := tlsClient.Handshake(); err != nil {
			return
		}
		go func() {
			for _, p := range pieces {
				if _, err := tlsClient.Write(p); err != nil {
					break // refused already
				}
			}
			tlsClient.CloseWrite()
		}()
		sent, _ := io.ReadAll(tlsClient) // ends with a reset when something was not read
		answer <- sent
	}()
	c := ws.NewTestConn(server, func(below net.Conn) *tls.Conn {
		c := tls.Server(below, serverTLS)
		if err := c.Handshake(); err != nil {
			tb.Fatal(err)
		}
		return c
	}, nil, time.Second)
	msgs, err := readAll(c)
	if held := c.Held(); held != 0 {
		tb.Errorf("%d bytes of buffers kept after the end", held)
	}
	r := parseSent(tb, <-answer)
	r.msgs, r.err = msgs, err
	return r
}

// cuts returns where to cut a script of n bytes: everywhere, or for a long one
// where frames begin and end and now and then between.
func cuts(n int) []int {
	var list []int
	for i := 1; i < n; i++ {
		if n <= 400 || i < 40 || n-i < 40 || i%499 == 0 {
			list = append(list, i)
		}
	}
	return list
}

// run checks s fed whole, byte by byte, and cut in two at each place, over real
// sockets and over the plain path.
func (s script) run(t *testing.T) {
	var bytewise [][]byte
	for i := range s.in {
		if len(s.in) > 20000 {
			break
		}
		bytewise = append(bytewise, s.in[i:i+1])
	}
	s.check(t, "whole", overSocket(t, [][]byte{s.in}))
	s.check(t, "whole, plain", overPlain(t, [][]byte{s.in}))
	if bytewise != nil {
		s.check(t, "byte by byte", overSocket(t, bytewise))
		s.check(t, "byte by byte, plain", overPlain(t, bytewise))
	}
	for _, at := range cuts(len(s.in)) {
		pieces := [][]byte{s.in[:at], s.in[at:]}
		s.check(t, fmt.Sprintf("cut at %d", at), overSocket(t, pieces))
		s.check(t, fmt.Sprintf("cut at %d, plain", at), overPlain(t, pieces))
		if t.Failed() {
			return
		}
	}
}

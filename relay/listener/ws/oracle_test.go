package ws_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// The same bytes through coder/websocket must come to the same messages, pongs
// and close code. These are all the differences that are allowed, each with the
// text of our error:
//
//	                          ours                          the library
//	text message              1003 from its first frame     delivers it
//	empty message             1003                          delivers it
//	frame not masked          1002                          ends without a close frame
//	top bit of the length     1002                          ends without a close frame
//	control frame with its    1002, as RFC 6455, 5.2 and    takes it when it has 125
//	length in 16 or 64 bits   5.5, forbids all of them      bytes at most
//	message too long          1009 from the header          1009 once the limit was read
//	close reason not UTF-8    1007                          echoes the code
//	end inside a message      io.ErrUnexpectedEOF           may hand up what there is of it
//	pings read together       a pong for the newest         a pong for each
//
// A header with two faults may be refused for either. Two more differences come
// from when a fault is seen. Whatever else we refuse, we refuse
// as soon as the first bytes of its header show it, while the library waits for
// the whole header; where the stream ends in between it sees only the end. And
// it reads a control frame to its end before it looks at a missing FIN or a
// length over 125.
var differences = []string{
	"text message", "empty message", "frame not masked",
	"length with the top bit set", "message too long", "control frame with an extended length",
}

// oracleConn is the connection below the library: it reads a script to its end.
type oracleConn struct {
	net.Conn // nil: the rest is not called
	in       *bytes.Reader
	sent     bytes.Buffer
}

func (c *oracleConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *oracleConn) Write(p []byte) (int, error) { return c.sent.Write(p) }
func (c *oracleConn) Close() error                { return nil }

type oracleWriter struct {
	*httptest.ResponseRecorder
	conn *oracleConn
}

func (w oracleWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.conn, bufio.NewReadWriter(bufio.NewReader(w.conn), bufio.NewWriter(w.conn)), nil
}

// oracle runs script through the library. foreign reports that it handed up a
// message that our wire has no place for, the last of msgs.
func oracle(t *testing.T, script []byte) (r result, foreign bool) {
	t.Helper()
	req := httptest.NewRequest("GET", "/relay", nil)
	req.Header = http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	conn := &oracleConn{in: bytes.NewReader(script)}
	c, err := websocket.Accept(oracleWriter{httptest.NewRecorder(), conn}, req, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseNow()
	c.SetReadLimit(maxMessage)
	var msgs []string
	for {
		var typ websocket.MessageType
		var msg []byte
		typ, msg, err = c.Read(context.Background())
		if err != nil {
			break
		}
		msgs = append(msgs, string(msg))
		if typ != websocket.MessageBinary || len(msg) == 0 {
			foreign = true
			break
		}
	}
	r = parseSent(t, conn.sent.Bytes())
	r.msgs, r.err = msgs, err
	return r, foreign
}

// compare runs in, cut at cut, through both and reports what they do not agree on.
func compare(t *testing.T, in []byte, cut int) {
	t.Helper()
	want, foreign := oracle(t, in)
	got := overSocket(t, [][]byte{in[:cut], in[cut:]})
	if got.after > 0 {
		t.Errorf("%d frames after the close frame", got.after)
	}
	if plain := overPlain(t, [][]byte{in[:cut], in[cut:]}); !slices.Equal(plain.msgs, got.msgs) || plain.code != got.code {
		t.Errorf("plain path: messages %s and code %d, over a socket %s and %d",
			short(plain.msgs), plain.code, short(got.msgs), got.code)
	}

	refusal := ""
	for _, d := range differences {
		if got.err != nil && bytes.HasSuffix([]byte(got.err.Error()), []byte(": "+d)) {
			refusal = d
		}
	}
	if (got.err == io.ErrUnexpectedEOF || got.code == 1002) && want.code == gone && len(want.msgs) == len(got.msgs)+1 && refusal == "" {
		// It took the end for that of the message.
		want.msgs, want.err, foreign = want.msgs[:len(got.msgs)], io.EOF, false
	}
	ended := errors.Is(want.err, io.EOF) || errors.Is(want.err, io.ErrUnexpectedEOF)
	silent := want.err != nil && (strings.Contains(want.err.Error(), "unmasked frame") ||
		strings.Contains(want.err.Error(), "negative payload length"))
	switch {
	case refusal != "":
		// The library may have gone on. What came before must be the same.
		if n := len(got.msgs); n > len(want.msgs) || !slices.Equal(got.msgs, want.msgs[:n]) {
			t.Errorf("%s: messages %s, the library has %s", refusal, short(got.msgs), short(want.msgs))
		}
		if !someOf(got.pongs, want.pongs) {
			t.Errorf("%s: pongs %s, the library has %s", refusal, short(got.pongs), short(want.pongs))
		}
		return
	case foreign:
		t.Errorf("the library handed up %q, we ended with %v", want.msgs[len(want.msgs)-1], got.err)
		return
	}
	if !slices.Equal(got.msgs, want.msgs) {
		t.Errorf("messages %s, the library has %s", short(got.msgs), short(want.msgs))
	}
	if !newestOf(got.pongs, want.pongs) {
		t.Errorf("pongs %s, the library has %s", short(got.pongs), short(want.pongs))
	}
	switch {
	case got.code == want.code:
	case got.code == 1002 && want.code == gone && (ended || silent): // another fault of the same header
	case got.code == 1007 && want.code != gone: // it does not look at the reason
	default:
		t.Errorf("close code %d (%v), the library has %d (%v)", got.code, got.err, want.code, want.err)
	}
}

func TestLikeTheLibrary(t *testing.T) {
	for _, s := range scripts() {
		t.Run(s.name, func(t *testing.T) {
			compare(t, s.in, len(s.in)/2)
			for n := range min(len(s.in), 64) {
				compare(t, s.in[:n], n/2)
			}
		})
	}
}

func FuzzLikeTheLibrary(f *testing.F) {
	for _, s := range scripts() {
		if len(s.in) <= 4096 {
			f.Add(s.in, uint16(len(s.in)/2))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, cut uint16) {
		if len(in) > 64<<10 {
			return
		}
		done := time.AfterFunc(20*time.Second, func() { panic("hangs") })
		defer done.Stop()
		compare(t, in, int(cut)%(len(in)+1))
	})
}

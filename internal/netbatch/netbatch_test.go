package netbatch

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

func tcpPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// plain hides the descriptor of a connection.
type plain struct{ net.Conn }

func TestBuffers(t *testing.T) {
	for _, n := range []int{0, 1, 512, 513, 2048, 2049, 9472, 9473, ReadSize} {
		b := Borrow(n)
		if len(b) < n || len(b) > max(512, 8*n) {
			t.Errorf("Borrow(%d) has %d bytes", n, len(b))
		}
		GiveBack(b)
	}
	GiveBack(nil)
}

// TestReader reads a stream in frames of every size, over a descriptor and
// without one: nothing is lost, and nothing is held while there are no bytes.
func TestReader(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"raw":   func(c net.Conn) net.Conn { return c },
		"plain": func(c net.Conn) net.Conn { return plain{c} },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := tcpPair(t)
			want := make([]byte, 1<<20)
			rand.Read(want)
			early := want[:100]
			go func() {
				a.Write(want[len(early):])
				a.Close()
			}()
			var r Reader
			c := wrap(b)
			r.Init(c, Raw(c), nil)
			r.Preload(early)
			var got []byte
			for size := 1; ; size = size*3%9000 + 1 {
				var err error
				for len(r.Bytes()) < size && err == nil {
					err = r.Fill()
				}
				if errors.Is(err, io.EOF) {
					got = append(got, r.Bytes()...)
					break
				}
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, r.Bytes()[:size]...)
				r.Skip(size)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("read %d bytes, not those that were written", len(got))
			}
			r.Release()
			if r.Held() != 0 {
				t.Errorf("%d bytes held", r.Held())
			}
		})
	}
}

// TestWriterStall: a side that takes no byte ends the write, and a deadline from
// outside does so earlier.
func TestWriterStall(t *testing.T) {
	a, _ := tcpPair(t)
	var w Writer
	w.Init(a, Raw(a), 20*time.Millisecond)
	b := make([]byte, 64<<20)
	if n, err := w.Write(b); !errors.Is(err, os.ErrDeadlineExceeded) || n == 0 || n == len(b) {
		t.Errorf("Write = %d, %v", n, err)
	}
	w.Init(a, Raw(a), time.Hour)
	if err := w.SetDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("Write behind a deadline: %v", err)
	}
}

// TestBelow: a handshake and first bytes as over any connection, then both ends
// gathered, with bytes that TLS holds from before.
func TestBelow(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"raw":   func(c net.Conn) net.Conn { return c },
		"plain": func(c net.Conn) net.Conn { return plain{c} },
	} {
		t.Run(name, func(t *testing.T) {
			serverConfig, clientConfig := testConfigs(t, tls.VersionTLS13)
			a, b := tcpPair(t)
			below := NewBelow(wrap(a))
			server, client := tls.Server(below, serverConfig), tls.Client(b, clientConfig)
			done := make(chan error, 1)
			go func() { done <- client.Handshake() }()
			if err := server.Handshake(); err != nil {
				t.Fatal(err)
			}
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if _, err := client.Write([]byte("hello, and more")); err != nil {
				t.Fatal(err)
			}
			hello := make([]byte, 5)
			if _, err := io.ReadFull(server, hello); err != nil {
				t.Fatal(err)
			}

			records, raw := below.Gather(server)
			var r Reader
			var w Writer
			r.Init(below.Conn, raw, records)
			w.Init(below.Conn, raw, time.Second)
			for len(r.Bytes()) == 0 {
				if err := r.Fill(); err != nil {
					t.Fatal(err)
				}
			}
			if got := string(r.Bytes()); got != ", and more" {
				t.Errorf("what TLS held is %q", got)
			}
			for _, part := range []string{"one ", "two"} {
				if err := records.Encrypt([]byte(part)); err != nil {
					t.Fatal(err)
				}
			}
			if err := records.EndWriting(); err != nil {
				t.Fatal(err)
			}
			if !records.Pending() {
				t.Error("nothing was gathered")
			}
			gathered, lent := records.Take()
			if _, err := w.Write(gathered); err != nil {
				t.Fatal(err)
			}
			GiveBack(lent)
			if records.Pending() {
				t.Error("what was taken is still there")
			}
			if got, err := io.ReadAll(client); string(got) != "one two" || err != nil {
				t.Errorf("the other side read %q, %v", got, err)
			}
		})
	}
}

// TestGatherFull: the other side cannot have TLS gather without end.
func TestGatherFull(t *testing.T) {
	r := new(Records)
	b := make([]byte, 1000)
	n := 0
	for n < 100 {
		if _, err := r.Write(b); err != nil {
			if err != ErrGatherFull {
				t.Error(err)
			}
			break
		}
		n++
	}
	if n != GatherSize/len(b) {
		t.Errorf("%d records were gathered", n)
	}
}

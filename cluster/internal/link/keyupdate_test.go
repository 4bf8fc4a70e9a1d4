package link_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"io"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/netbatch"
)

// TestKeyUpdate: a side of the link that updates its keys and asks for the same,
// which crypto/tls never does by itself, is answered at once, though the link has
// nothing to say, and both directions go on.
func TestKeyUpdate(t *testing.T) {
	x, y := tcpPair(t)
	secrets := &bytes.Buffer{}
	config := tlsConfig().Clone()
	config.KeyLogWriter = secrets
	far := tls.Client(x, config)
	near := link.Config{Below: netbatch.NewBelow(y)}
	near.TLS = tls.Server(near.Below, tlsConfig())
	done := make(chan error, 1)
	go func() { done <- far.Handshake() }()
	if err := near.TLS.Handshake(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if far.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		t.Skip("this machine prefers another cipher")
	}
	// From here on the far side is made by hand.
	out := newRecordLayer(t, secrets.String(), "CLIENT_TRAFFIC_SECRET_0")
	in := newRecordLayer(t, secrets.String(), "SERVER_TRAFFIC_SECRET_0")

	quiet(&near, &near)
	got := make(chan int, 10)
	near.Handler = &trace{forward: func(msg []byte) { got <- number(msg) }, batch: func() {}}
	b := newEnd(near)
	b.run()
	defer b.Close(nil)
	if typ, _ := in.read(x); typ != applicationData {
		t.Fatal("no PING")
	}

	const updateRequested, updateNotRequested = 1, 0
	for i := range 3 {
		x.Write(out.seal(handshake, []byte{24, 0, 0, 1, updateRequested}))
		out.update()
		// Nothing follows, and the answer comes.
		if typ, msg := in.read(x); typ != handshake || !bytes.Equal(msg, []byte{24, 0, 0, 1, updateNotRequested}) {
			t.Fatalf("answer of type %d, %x", typ, msg)
		}
		in.update()
		x.Write(out.seal(applicationData, data(wire.TypeForward, 1, 1, 0, numbered(i, 100))))
		if n := <-got; n != i {
			t.Errorf("message %d in place of %d", n, i)
		}
		b.send(1, numbered(i, 100))
		if typ, msg := in.read(x); typ != applicationData || number(msg[wire.DataHeaderSize:]) != i {
			t.Errorf("type %d, %x in place of message %d", typ, msg, i)
		}
	}
}

// Types of TLS records.
const (
	handshake       = 22
	applicationData = 23
)

// recordLayer is one direction of TLS_AES_128_GCM_SHA256, RFC 8446, section 5.
type recordLayer struct {
	t      *testing.T
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	seq    uint64
}

func newRecordLayer(t *testing.T, log, label string) *recordLayer {
	for line := range strings.Lines(log) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == label {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				t.Fatal(err)
			}
			r := &recordLayer{t: t, secret: secret}
			r.keys()
			return r
		}
	}
	t.Fatalf("no %s", label)
	return nil
}

func (r *recordLayer) expand(label string, n int) []byte {
	label = "tls13 " + label
	info := append([]byte{0, byte(n), byte(len(label))}, label...)
	key, err := hkdf.Expand(sha256.New, r.secret, string(append(info, 0)), n)
	if err != nil {
		r.t.Fatal(err)
	}
	return key
}

func (r *recordLayer) keys() {
	block, err := aes.NewCipher(r.expand("key", 16))
	if err != nil {
		r.t.Fatal(err)
	}
	if r.aead, err = cipher.NewGCM(block); err != nil {
		r.t.Fatal(err)
	}
	r.iv, r.seq = r.expand("iv", 12), 0
}

func (r *recordLayer) update() {
	r.secret = r.expand("traffic upd", sha256.Size)
	r.keys()
}

func (r *recordLayer) nonce() []byte {
	nonce := bytes.Clone(r.iv)
	for i, b := range binary.BigEndian.AppendUint64(nil, r.seq) {
		nonce[4+i] ^= b
	}
	r.seq++
	return nonce
}

func (r *recordLayer) seal(typ byte, content []byte) []byte {
	size := len(content) + 1 + r.aead.Overhead()
	header := []byte{applicationData, 3, 3, byte(size >> 8), byte(size)}
	return r.aead.Seal(bytes.Clone(header), r.nonce(), append(bytes.Clone(content), typ), header)
}

func (r *recordLayer) read(from io.Reader) (typ byte, content []byte) {
	r.t.Helper()
	header := make([]byte, 5)
	if _, err := io.ReadFull(from, header); err != nil {
		r.t.Fatal(err)
	}
	body := make([]byte, binary.BigEndian.Uint16(header[3:]))
	if _, err := io.ReadFull(from, body); err != nil {
		r.t.Fatal(err)
	}
	plain, err := r.aead.Open(nil, r.nonce(), body, header)
	if err != nil {
		r.t.Fatal(err)
	}
	return plain[len(plain)-1], plain[:len(plain)-1]
}

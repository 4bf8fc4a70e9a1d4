package handshake

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/netbatch"
)

// puppet is a side of a handshake that a test moves by hand.
type puppet struct {
	t *testing.T
	*shake
}

func newPuppet(t *testing.T, p *Pod, role Role, conn net.Conn) *puppet {
	t.Helper()
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &puppet{t, &shake{pod: p, role: role, below: netbatch.NewBelow(conn), keys: p.config.Keys.snapshot()}}
}

// begin does TLS.
func (p *puppet) begin() *puppet {
	p.t.Helper()
	if err := p.encrypt(p.t.Context()); err != nil {
		p.t.Error(err)
	}
	return p
}

// frame reads a frame, header and all; nil at the end.
func (p *puppet) frame() []byte {
	b := make([]byte, wire.HeaderSize)
	if _, err := io.ReadFull(p.tls, b); err != nil {
		return nil
	}
	b = append(b, make([]byte, int(b[1])<<16|int(b[2])<<8|int(b[3]))...)
	if _, err := io.ReadFull(p.tls, b[wire.HeaderSize:]); err != nil {
		return nil
	}
	return b
}

func (p *puppet) write(b []byte) { _, _ = p.tls.Write(b) } // the other side may have left

// hung checks that the other side says nothing more and has left.
func (p *puppet) hung() {
	p.t.Helper()
	if rest, err := io.ReadAll(p.tls); len(rest) > 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		p.t.Errorf("the other side sent %d bytes more, then %v", len(rest), err)
	}
	p.below.Close()
}

// against has the test play one side against victim, which plays the other, and
// returns how victim's handshake ended, and after how long.
func against(t *testing.T, victim *Pod, role Role, hostile func(conn net.Conn)) (took time.Duration, err error) {
	t.Helper()
	mine, theirs := pipe()
	start := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		var c *Conn
		if role == Dialer {
			c, err = victim.Dial(t.Context(), theirs)
		} else {
			c, err = victim.Accept(t.Context(), theirs)
		}
		took = time.Since(start)
		if c != nil {
			c.TLS.Close()
		}
	}()
	hostile(mine)
	mine.Close()
	<-done
	return took, err
}

// stranger is a pod that does not have the secret and claims to have it: it copies the
// key ids of the other side.
func stranger(t *testing.T) *Pod {
	return pod(t, "zoe", []string{"whatever this is, it is not the secret"})
}

// TestImpostorAcceptor: a listener at the address of a pod that does not have the
// secret gets the HELLO and a proof that is worthless elsewhere, and nothing more.
func TestImpostorAcceptor(t *testing.T) {
	macs := map[string]func(theirs, right []byte) []byte{
		"of a wrong secret":    func(_, right []byte) []byte { return mac([]byte("guess"), right, wire.Proof{}) },
		"zeros":                func(_, right []byte) []byte { return make([]byte, len(right)) },
		"the dialer's own":     func(theirs, _ []byte) []byte { return theirs },
		"none, as if unsigned": func(_, _ []byte) []byte { return nil },
	}
	for name, forge := range macs {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, err := against(t, pod(t, "left", secret), Dialer, func(conn net.Conn) {
					p := newPuppet(t, stranger(t), Acceptor, conn).begin()
					if err := p.listen(); err != nil {
						t.Error(err)
					}
					p.keys[0].id = p.theirs.Keys[0]
					if err := p.greet(); err != nil {
						t.Error(err)
					}
					proof := p.frame()
					theirs, err := wire.ParseProof(proof[wire.HeaderSize:])
					if err != nil {
						t.Error(err)
					}
					p.write(wire.AppendProof(nil, wire.Proof{MAC: forge(theirs.MAC, make([]byte, 32))}))
					p.hung()
				})
				reasonWant := HMACMismatch
				if name == "none, as if unsigned" {
					reasonWant = UnsignedButRequired
				}
				want(t, "dialer", err, reasonWant)
			})
		})
	}
}

// TestProofOfNothing: pods without a secret expect no MAC.
func TestProofOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := against(t, pod(t, "right", nil), Acceptor, func(conn net.Conn) {
			p := newPuppet(t, pod(t, "zoe", nil), Dialer, conn).begin()
			if err := errors.Join(p.greet(), p.listen()); err != nil {
				t.Error(err)
			}
			p.write(wire.AppendProof(nil, wire.Proof{MAC: make([]byte, 32)}))
			p.hung()
		})
		want(t, "acceptor", err, SignedButUnsupported)
	})
}

// TestStrangerDials: an acceptor sends a dialer without the secret its HELLO and
// nothing more.
func TestStrangerDials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, err := against(t, pod(t, "right", secret), Acceptor, func(conn net.Conn) {
			p := newPuppet(t, stranger(t), Dialer, conn).begin()
			p.keys[0].id = newKey(oldSecret).id
			if err := errors.Join(p.greet(), p.listen()); err != nil {
				t.Error(err)
			}
			p.write(wire.AppendProof(nil, wire.Proof{MAC: make([]byte, 32)}))
			p.hung()
		})
		want(t, "acceptor", err, HMACMismatch)
	})
}

// TestSwappedRole: a proof made with the right secret under the key of the other
// role is wrong, so that no pod's proof can be used against another.
func TestSwappedRole(t *testing.T) {
	for _, role := range []Role{Dialer, Acceptor} {
		for _, swap := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				_, err := against(t, pod(t, "left", secret), role, func(conn net.Conn) {
					p := newPuppet(t, pod(t, "right", secret), role.other(), conn).begin()
					if role == Dialer {
						_ = p.listen()
						_ = p.greet()
					} else {
						_ = p.greet()
						_ = p.listen()
					}
					script, err := p.transcript()
					if err != nil {
						t.Error(err)
					}
					k := p.keys[0]
					if swap {
						k.dialer, k.acceptor = k.acceptor, k.dialer
					}
					if role == Dialer {
						p.frame()
					}
					if _, err := p.show(&k, script); err != nil {
						t.Error(err)
					}
					if role == Acceptor {
						p.frame()
					}
				})
				if swap {
					want(t, role.String(), err, HMACMismatch)
				} else {
					want(t, role.String(), err, "")
				}
			})
		}
	}
}

// bridge passes frames between two TLS connections until one of them ends, and
// keeps them.
func bridge(from, to *puppet, kept *bytes.Buffer) {
	for {
		b := from.frame()
		if b == nil {
			to.below.Close()
			return
		}
		if kept != nil {
			kept.Write(b)
		}
		to.write(b)
	}
}

// TestManInTheMiddle: an attacker that terminates TLS towards both sides and passes on
// their frames is detected: each TLS connection has its own exporter.
func TestManInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		right, rightConn := pipe()
		acceptErr := make(chan error)
		go func() {
			_, err := pod(t, "right", secret).Accept(t.Context(), rightConn)
			acceptErr <- err
		}()
		_, err := against(t, pod(t, "left", secret), Dialer, func(conn net.Conn) {
			toDialer := newPuppet(t, stranger(t), Acceptor, conn).begin()
			toAcceptor := newPuppet(t, stranger(t), Dialer, right).begin()
			go bridge(toDialer, toAcceptor, nil)
			bridge(toAcceptor, toDialer, nil)
		})
		want(t, "dialer", err, Closed)
		want(t, "acceptor", <-acceptErr, HMACMismatch)
	})
}

// TestTwoDialers: two pods that both dialled the attacker in the middle get each
// other's HELLO. Neither accepts the proof of a dialer as that of an acceptor.
func TestTwoDialers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		right, rightConn := pipe()
		dialErr := make(chan error)
		go func() {
			_, err := pod(t, "right", secret).Dial(t.Context(), rightConn)
			dialErr <- err
		}()
		_, err := against(t, pod(t, "left", secret), Dialer, func(conn net.Conn) {
			toLeft := newPuppet(t, stranger(t), Acceptor, conn).begin()
			toRight := newPuppet(t, stranger(t), Acceptor, right).begin()
			go bridge(toLeft, toRight, nil)
			bridge(toRight, toLeft, nil)
		})
		want(t, "left", err, HMACMismatch)
		want(t, "right", <-dialErr, HMACMismatch)
	})
}

// TestReplay: the frames of a dialer in a successful handshake are not accepted later.
// The test can record them because it has the secret.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hello, proof []byte
		acceptor := pod(t, "right", secret)
		_, err := against(t, acceptor, Acceptor, func(conn net.Conn) {
			p := newPuppet(t, pod(t, "left", secret), Dialer, conn).begin()
			if err := errors.Join(p.greet(), p.listen()); err != nil {
				t.Error(err)
			}
			script, err := p.transcript()
			if err != nil {
				t.Error(err)
			}
			shown, err := p.show(&p.keys[0], script)
			if err != nil || p.frame() == nil {
				t.Errorf("no PROOF came back: %v", err)
			}
			hello = append(wire.AppendHeader(nil, wire.TypeHello, len(p.mineRaw)), p.mineRaw...)
			proof = wire.AppendProof(nil, shown)
		})
		want(t, "first acceptor", err, "")
		_, err = against(t, acceptor, Acceptor, func(conn net.Conn) {
			p := newPuppet(t, stranger(t), Dialer, conn).begin()
			p.write(hello)
			if p.frame() == nil {
				t.Error("no HELLO came back")
			}
			p.write(proof)
			p.hung()
		})
		want(t, "second acceptor", err, HMACMismatch)
	})
}

// TestReflection: a dialer gets its own frames back. An acceptor sends each frame after
// the dialer's, so this cannot happen to it.
func TestReflection(t *testing.T) {
	tests := []struct {
		name   string
		change func(h *wire.Hello)
		want   Reason
	}{
		{"as it was", func(*wire.Hello) {}, Reflected},
		{"as another pod", func(h *wire.Hello) { h.Address = "zoe:1" }, Reflected},
		{"with another nonce", func(h *wire.Hello) { h.Nonce[0]++ }, HMACMismatch},
		{"as another pod with another nonce", func(h *wire.Hello) { h.Incarnation++; h.Nonce[0]++ }, HMACMismatch},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, err := against(t, pod(t, "left", secret), Dialer, func(conn net.Conn) {
					p := newPuppet(t, stranger(t), Acceptor, conn).begin()
					h, err := wire.ParseHello(p.frame()[wire.HeaderSize:])
					if err != nil {
						t.Error(err)
					}
					tt.change(h)
					b, err := wire.AppendHello(nil, h)
					if err != nil {
						t.Error(err)
					}
					p.write(b)
					p.write(p.frame()) // the PROOF, if there is one
					p.hung()
				})
				want(t, "dialer", err, tt.want)
			})
		})
	}
}

// TestNamesake: a side that claims the identity of the other is not believed without
// the secret, otherwise an attacker at an address could keep it from being dialled for
// ever; and with the secret it gets no link.
func TestNamesake(t *testing.T) {
	for _, role := range []Role{Dialer, Acceptor} {
		for _, knows := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				var met *Conn
				_, err := against(t, pod(t, "left", secret), role, func(conn net.Conn) {
					p := newPuppet(t, pod(t, "left", secret), role.other(), conn)
					if !knows {
						p.keys = []key{newKey(newSecret)}
						p.keys[0].id = newKey(oldSecret).id
					}
					met, _ = p.run(t.Context())
				})
				if met != nil {
					t.Errorf("a link with the %v", role)
				}
				if knows {
					want(t, role.String(), err, Self)
				} else if got := reason(t, err); got != HMACMismatch && got != Closed {
					t.Errorf("%v: %v, want it not to be believed", role, err)
				}
			})
		}
	}
}

// TestChanged: the proofs cover every byte of both HELLOs and what is beside the
// MAC, also of bytes that belong to a later version. The attacker in this test has the
// TLS keys, which a real attacker cannot have.
func TestChanged(t *testing.T) {
	for _, role := range []Role{Dialer, Acceptor} {
		size := 0
		for at := -1; at < size+wire.HeaderSize+16; at++ {
			synctest.Test(t, func(t *testing.T) {
				_, err := against(t, pod(t, "left", secret), role, func(conn net.Conn) {
					p := newPuppet(t, pod(t, "right", secret), role.other(), conn).begin()
					if role == Dialer {
						_ = p.listen()
					}
					h := p.pod.hello(p.keys)
					h.Rest = []byte("later")
					b, err := wire.AppendHello(nil, h)
					if err != nil {
						t.Error(err)
					}
					size = len(b)
					p.mine, p.mineRaw = h, bytes.Clone(b[wire.HeaderSize:])
					if at >= 0 && at < size-wire.HeaderSize {
						b[wire.HeaderSize+at] ^= 1
					}
					p.write(b)
					if role == Acceptor {
						if p.listen() != nil {
							return
						}
					} else if p.frame() == nil {
						return
					}
					script, err := p.transcript()
					if err != nil {
						t.Error(err)
					}
					proof := wire.Proof{}
					proof.MAC = mac(p.keys[0].of(p.role), script, proof)
					b = wire.AppendProof(nil, proof)
					if at >= size {
						b[wire.HeaderSize+at-size] ^= 1
					}
					p.write(b)
					p.frame()
				})
				if changed := at >= 0 && (at < size-wire.HeaderSize || at >= size); changed == (err == nil) {
					t.Errorf("%v, byte %d of %d changed: %v", role, at, size, err)
				}
			})
		}
	}
}

// TestMalformed: what comes in place of HELLO and PROOF, and that a header which
// says too much ends it without a byte of the payload.
func TestMalformed(t *testing.T) {
	hello := func(t *testing.T) []byte {
		b, err := wire.AppendHello(nil, stranger(t).hello(nil))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	tests := []struct {
		name  string
		first func(t *testing.T) []byte
		want  Reason
	}{
		{"a ping", func(*testing.T) []byte { return wire.AppendPing(nil, wire.Ping{}) }, FirstFrameNotHello},
		{"a proof", func(*testing.T) []byte { return wire.AppendProof(nil, wire.Proof{}) }, FirstFrameNotHello},
		{"16 MiB of no type", func(*testing.T) []byte { return wire.AppendHeader(nil, 0xff, 1<<24-1) }, FirstFrameNotHello},
		{"HELLO of 16 MiB", func(*testing.T) []byte { return wire.AppendHeader(nil, wire.TypeHello, 1<<24-1) }, Malformed},
		{"HELLO of 1025 bytes", func(*testing.T) []byte { return wire.AppendHeader(nil, wire.TypeHello, 1025) }, Malformed},
		{"empty HELLO", func(*testing.T) []byte { return wire.AppendHeader(nil, wire.TypeHello, 0) }, Malformed},
		{"HTTP", func(*testing.T) []byte { return []byte("GET / HTTP/1.1\r\n\r\n") }, FirstFrameNotHello},
		{"wrong magic", func(t *testing.T) []byte { b := hello(t); b[wire.HeaderSize]++; return b }, Malformed},
		{"HELLO twice", func(t *testing.T) []byte {
			h := stranger(t).hello([]key{newKey(oldSecret)})
			b, err := wire.AppendHello(nil, h)
			if err != nil {
				t.Error(err)
			}
			return append(b, b...)
		}, Malformed},
		{"PROOF of a strange size", func(t *testing.T) []byte {
			b, err := wire.AppendHello(nil, stranger(t).hello([]key{newKey(oldSecret)}))
			if err != nil {
				t.Error(err)
			}
			return append(wire.AppendHeader(b, wire.TypeProof, 17), make([]byte, 17)...)
		}, Malformed},
		{"PROOF of 64 KiB", func(t *testing.T) []byte {
			b, err := wire.AppendHello(nil, stranger(t).hello([]key{newKey(oldSecret)}))
			if err != nil {
				t.Error(err)
			}
			return wire.AppendHeader(b, wire.TypeProof, 64<<10)
		}, Malformed},
	}
	for _, tt := range tests {
		for _, role := range []Role{Dialer, Acceptor} {
			t.Run(role.String()+" is sent "+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					took, err := against(t, pod(t, "left", secret), role, func(conn net.Conn) {
						p := newPuppet(t, stranger(t), role.other(), conn).begin()
						p.write(tt.first(t))
						for p.frame() != nil {
						}
					})
					want(t, role.String(), err, tt.want)
					if took > time.Second {
						t.Errorf("noticed after %v only", took)
					}
				})
			})
		}
	}
}

// TestCutShort: a side that stops anywhere, by leaving or by falling silent, costs
// its connection and the timeout, no more.
func TestCutShort(t *testing.T) {
	for _, role := range []Role{Dialer, Acceptor} {
		for _, silent := range []bool{false, true} {
			size := 1
			for at := -1; at < size; at++ { // -1: not even TLS
				synctest.Test(t, func(t *testing.T) {
					took, err := against(t, pod(t, "left", secret), role, func(conn net.Conn) {
						if at >= 0 {
							p := newPuppet(t, pod(t, "right", secret), role.other(), conn).begin()
							size = p.sendUpTo(at)
						}
						if silent {
							time.Sleep(time.Minute)
						}
					})
					if silent {
						want(t, role.String(), err, Timeout)
						if took != DefaultTimeout {
							t.Errorf("gave up after %v, want %v", took, DefaultTimeout)
						}
					} else {
						want(t, role.String(), err, Closed)
					}
				})
			}
		}
	}
}

// sendUpTo sends the first at bytes of what its side sends when all goes well, and
// returns how many there are.
func (p *puppet) sendUpTo(at int) int {
	p.t.Helper()
	h, err := wire.AppendHello(nil, p.pod.hello(p.keys))
	if err != nil {
		p.t.Error(err)
	}
	size := len(h) + wire.HeaderSize + 48
	if p.role == Acceptor {
		_ = p.listen()
	}
	p.write(h[:min(at, len(h))])
	if at < len(h) {
		return size
	}
	p.mine, p.mineRaw = p.pod.hello(p.keys), h[wire.HeaderSize:]
	if p.role == Dialer {
		_ = p.listen()
	} else {
		p.frame()
	}
	script, err := p.transcript()
	if err != nil {
		p.t.Error(err)
	}
	proof := wire.Proof{}
	proof.MAC = mac(p.keys[0].of(p.role), script, proof)
	p.write(wire.AppendProof(nil, proof)[:at-len(h)])
	return size
}

// TestTimeout: one deadline for all of it. A byte now and then does not help.
func TestTimeout(t *testing.T) {
	for _, role := range []Role{Dialer, Acceptor} {
		for timeout, wanted := range map[time.Duration]time.Duration{0: 3 * time.Second, time.Minute: time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				victim := pod(t, "left", secret, func(c *Config) { c.Timeout = timeout })
				took, err := against(t, victim, role, func(conn net.Conn) {
					p := newPuppet(t, stranger(t), role.other(), conn).begin()
					conn.SetDeadline(time.Time{})
					b, err := wire.AppendHello(nil, p.pod.hello(p.keys))
					for i := 0; i < len(b) && err == nil; i++ {
						_, err = p.tls.Write(b[i : i+1])
						time.Sleep(wanted / 10)
					}
				})
				want(t, role.String(), err, Timeout)
				if took != wanted {
					t.Errorf("%v gave up after %v, want %v", role, took, wanted)
				}
			})
		}
	}
}

// TestNotTLS: other protocols at the port of links, and links to the ports of
// other protocols.
func TestNotTLS(t *testing.T) {
	speak := func(change func(c *tls.Config)) func(t *testing.T, role Role, conn net.Conn) {
		return func(t *testing.T, role Role, conn net.Conn) {
			c, err := throwAway()
			if err != nil {
				t.Error(err)
			}
			change(c)
			end := tls.Client(conn, c)
			if role == Acceptor {
				end = tls.Server(conn, c)
			}
			conn.SetDeadline(time.Now().Add(time.Minute))
			_, _ = io.Copy(io.Discard, end)
		}
	}
	tests := []struct {
		name  string
		speak func(t *testing.T, role Role, conn net.Conn)
	}{
		{"plain text", func(_ *testing.T, _ Role, conn net.Conn) {
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			_, _ = io.Copy(io.Discard, conn)
		}},
		{"TLS 1.2", speak(func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12 })},
		{"no protocol", speak(func(c *tls.Config) { c.NextProtos = nil })},
		{"another protocol", speak(func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} })},
	}
	for _, tt := range tests {
		for _, role := range []Role{Dialer, Acceptor} {
			t.Run(role.String()+" meets "+tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					_, err := against(t, pod(t, "left", secret), role, func(conn net.Conn) { tt.speak(t, role.other(), conn) })
					want(t, role.String(), err, TLS)
				})
			})
		}
	}
}

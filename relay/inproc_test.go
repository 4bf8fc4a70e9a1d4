package relay_test

import (
	"encoding/binary"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
	"github.com/crosspod/crosspod/relay/listener/inproc"
)

// TestPeersInProcess: clients of this process use the relay without a socket, for
// longer than health checks allow silence, and end with it.
func TestPeersInProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, err := relay.NewServer(relay.Config{ExposedAddress: "rels://relay.example:443", AuthValidator: auth.NewValidator(secret)})
		if err != nil {
			t.Fatal(err)
		}
		connect := func(name, secret string) (*client.Client, error) {
			return client.Dial(t.Context(), client.Config{
				URL: server.InstanceURL(), Name: name, Token: client.SecretToken(secret, time.Hour), DialContext: server.DialPeer,
			})
		}
		if _, err := connect("mallory", "another secret"); err == nil {
			t.Error("a client with another secret was let in")
		}
		alice, err := connect("alice", secret)
		if err != nil {
			t.Fatal(err)
		}
		bob, err := connect("bob", secret)
		if err != nil {
			t.Fatal(err)
		}
		toBob, err := alice.OpenConn(t.Context(), messages.HashID("bob"))
		if err != nil {
			t.Fatal(err)
		}
		fromAlice, err := bob.OpenConn(t.Context(), messages.HashID("alice"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		const rounds, window = 100, 50
		go func() {
			for i := range rounds * window {
				if i%window == 0 {
					time.Sleep(time.Second)
				}
				msg := make([]byte, 4+i%messages.MaxPayloadSize/2)
				binary.BigEndian.PutUint32(msg, uint32(i))
				if _, err := toBob.Write(msg); err != nil {
					t.Error(err)
					return
				}
			}
		}()
		buf := make([]byte, messages.MaxPayloadSize)
		for i := range rounds * window {
			n, err := fromAlice.Read(buf)
			if want := 4 + i%messages.MaxPayloadSize/2; err != nil || n != want || binary.BigEndian.Uint32(buf) != uint32(i) {
				t.Fatalf("message %d: %d bytes, number %d, %v", i, n, binary.BigEndian.Uint32(buf), err)
			}
		}
		if err := alice.Close(); err != nil {
			t.Error(err)
		}
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := server.DialPeer(t.Context(), "", ""); err == nil {
			t.Error("a peer could connect after Shutdown")
		}
		if err := bob.Close(); err != nil {
			t.Error(err)
		}
	})
}

// BenchmarkInProcess: one peer sends to another, batches of 32 messages of 1,200
// bytes, over conns that keep batches and over ones that carry single messages.
func BenchmarkInProcess(b *testing.B) {
	const batch, size = 32, 1200
	for _, kind := range []string{"batches", "single"} {
		b.Run(kind, func(b *testing.B) {
			r, err := relay.NewRelay(relay.Config{ExposedAddress: "rel://relay.example:80", AuthValidator: auth.NewValidator(secret)})
			if err != nil {
				b.Fatal(err)
			}
			defer r.Shutdown(b.Context())
			connect := func(name string) net.Conn {
				var near, far net.Conn
				if near, far = inproc.Pipe(messages.MaxSize, time.Minute); kind == "single" {
					near, far = msgPipe(2 * batch)
				}
				hello, err := messages.AppendAuth(nil, messages.HashID(name), auth.Issue(secret, time.Now().Add(time.Hour)))
				if err != nil {
					b.Fatal(err)
				}
				go r.Accept(far)
				if _, err := near.Write(hello); err != nil {
					b.Fatal(err)
				}
				if _, err := near.Read(make([]byte, messages.MaxSize)); err != nil {
					b.Fatal(err)
				}
				return near
			}
			from, to := connect("from"), connect("to")
			msg := messages.AppendTransport(nil, messages.HashID("to"), make([]byte, size-messages.TransportHeaderSize))
			var frames []byte
			buf := make([]byte, messages.MaxSize)
			b.SetBytes(batch * size)
			b.ReportAllocs()
			for b.Loop() {
				if c, ok := from.(*inproc.Conn); ok {
					frames = frames[:0]
					for range batch {
						frames = c.AppendMessage(frames, msg, nil)
					}
					_, err = c.WriteBatch(frames)
				} else {
					for range batch {
						_, err = from.Write(msg)
					}
				}
				if err != nil {
					b.Fatal(err)
				}
				for range batch {
					if _, err := to.Read(buf); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/message")
		})
	}
}

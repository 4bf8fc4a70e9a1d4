package handshake

import (
	"crypto/tls"
	"errors"
	"io"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/test/memnet"
)

// FuzzBeforeProof sends a side, after TLS, bytes that prove nothing: it must refuse
// them for one of its reasons, whatever they are.
func FuzzBeforeProof(f *testing.F) {
	victim, other := pod(f, "left", secret), pod(f, "right", secret)
	hello, err := wire.AppendHello(nil, other.hello(other.config.Keys.snapshot()))
	if err != nil {
		f.Fatal(err)
	}
	for _, dialer := range []bool{true, false} {
		f.Add(dialer, []byte{})
		f.Add(dialer, hello)
		f.Add(dialer, append(hello[:len(hello):len(hello)], hello...))
		f.Add(dialer, wire.AppendProof(hello[:len(hello):len(hello)], wire.Proof{MAC: make([]byte, 32)}))
		f.Add(dialer, wire.AppendProof(hello[:len(hello):len(hello)], wire.Proof{}))
		f.Add(dialer, wire.AppendHeader(nil, wire.TypeHello, 1<<24-1))
		f.Add(dialer, wire.AppendPing(nil, wire.Ping{}))
	}
	f.Fuzz(func(t *testing.T, dialer bool, data []byte) {
		mine, theirs := memnet.Pipe(memnet.Config{})
		done := make(chan struct{})
		go func() {
			defer close(done)
			end := tls.Client(mine, other.tls)
			if dialer {
				end = tls.Server(mine, other.tls)
			}
			_, _ = end.Write(data) // may be refused before it is written
			_ = end.CloseWrite()
			_, _ = io.Copy(io.Discard, end)
			mine.Close()
		}()
		var err error
		if dialer {
			_, err = victim.Dial(t.Context(), theirs)
		} else {
			_, err = victim.Accept(t.Context(), theirs)
		}
		<-done
		if e, ok := errors.AsType[*Error](err); !ok || e.Reason == Timeout {
			t.Fatalf("a handshake with %x: %v", data, err)
		}
	})
}

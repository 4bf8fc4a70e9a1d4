//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sync/errgroup"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"

	"github.com/crosspod/crosspod/internal/test/podproc"
)

// The relay's process and the test's each hold one open file per peer:
//
//	go test -tags e2e -run Crowd ./test/e2e -peers 10000
var crowd = flag.Int("peers", 500, "peers of TestCrowdIsTold")

// TestCrowdIsTold has many peers connected when the relay is asked to stop. All
// are sent Close, and nothing is left in the relay when it has stopped.
func TestCrowdIsTold(t *testing.T) {
	const grace = 30 * time.Second
	p := startRelay(t, nil, onLoopback("--exposed-address", "rel://127.0.0.1:1", "--auth-secret", secret,
		"--max-half-open", "20000", "--drain-grace", grace.String(), "--log-level", "debug")...)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()

	conns := make([]*websocket.Conn, *crowd)
	dialling, dialCtx := errgroup.WithContext(ctx)
	dialling.SetLimit(50)
	for i := range conns {
		dialling.Go(func() (err error) {
			conns[i], err = dialPeer(dialCtx, p.peers, fmt.Sprint("peer", i))
			return err
		})
	}
	if err := dialling.Wait(); err != nil {
		t.Fatal(err)
	}

	var told, cut atomic.Int64
	var reading sync.WaitGroup
	for _, conn := range conns {
		reading.Go(func() {
			defer conn.CloseNow()
			if err := awaitClose(ctx, conn); err != nil {
				cut.Add(1)
				return
			}
			told.Add(1)
		})
	}
	asked := time.Now()
	p.Signal(syscall.SIGTERM)
	reading.Wait()
	if code := p.Exit(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	took := time.Since(asked)
	t.Logf("%d peers were sent Close, %d were cut; the relay ended after %v", told.Load(), cut.Load(), took.Round(time.Millisecond))
	if int(told.Load()) != *crowd {
		t.Errorf("%d of %d peers were sent Close", told.Load(), *crowd)
	}
	if took > grace+10*time.Second {
		t.Errorf("the relay ended %v after SIGTERM, its grace is %v", took, grace)
	}
	left, err := strconv.Atoi(podproc.Field(t, p.Err.Line(t, "relay has stopped"), "goroutines"))
	if err != nil {
		t.Fatal(err)
	}
	if left > 10 { // those of the process itself: main, signals, the runtime's
		t.Errorf("%d goroutines were left", left)
	}
}

// dialPeer connects name and returns after its AuthResponse.
func dialPeer(ctx context.Context, addr, name string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/relay", nil)
	if err != nil {
		return nil, err
	}
	msg, err := messages.AppendAuth(nil, messages.HashID(name), auth.Issue(secret, time.Now().Add(time.Hour)))
	if err != nil {
		return nil, err
	}
	if err := conn.Write(ctx, websocket.MessageBinary, msg); err != nil {
		return nil, err
	}
	_, msg, err = conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	_, err = messages.ParseAuthResponse(msg)
	return conn, err
}

// awaitClose reads until a Close message, behind which nothing may come.
func awaitClose(ctx context.Context, conn *websocket.Conn) error {
	for {
		_, msg, err := conn.Read(ctx)
		switch {
		case err != nil:
			return err
		case bytes.Equal(msg, messages.AppendHealthCheck(nil)):
			if err := conn.Write(ctx, websocket.MessageBinary, msg); err != nil {
				return err
			}
		case bytes.Equal(msg, messages.AppendClose(nil)):
			if _, msg, err = conn.Read(ctx); !errors.Is(err, io.EOF) {
				return fmt.Errorf("after Close came %x, %v, want the end", msg, err)
			}
			return nil
		default:
			return fmt.Errorf("got %x", msg)
		}
	}
}

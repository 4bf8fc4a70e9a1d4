package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// The watchdog hears of the pod twice in an interval, and not while the pod does not
// answer; an answer that comes late counts as none.
func TestWatchdog(t *testing.T) {
	const interval = time.Minute
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var sent []string
		s := &systemd{log: slog.New(slog.DiscardHandler), send: func(state string) error {
			sent = append(sent, fmt.Sprint(state, " ", time.Since(start)))
			return nil
		}}
		ctx, cancel := context.WithTimeout(t.Context(), 4*interval)
		defer cancel()
		s.watch(ctx, interval, func(ctx context.Context) error {
			switch now := time.Since(start); {
			case now < 40*time.Second, now >= 2*interval:
				return nil
			case now < 80*time.Second:
				return errors.New("refused")
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if got, want := strings.Join(sent, ", "), "WATCHDOG=1 0s, WATCHDOG=1 30s, WATCHDOG=1 2m6s, WATCHDOG=1 2m36s, WATCHDOG=1 3m6s, WATCHDOG=1 3m36s"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

// A hangup before the pod is ready, or while it stops, does not make it ready.
func TestReload(t *testing.T) {
	var did []string
	s := &systemd{send: func(state string) error {
		did = append(did, strings.Split(state, "\n")[0])
		return nil
	}}
	load := func() { s.reload(func() { did = append(did, "load") }) }
	part := s.startAndStop(Stopping{})
	load()
	if err := part.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	load()
	part.Stop()
	load()
	if got, want := strings.Join(did, ", "), "load, READY=1, RELOADING=1, load, READY=1, STOPPING=1, load"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

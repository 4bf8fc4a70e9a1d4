package link_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/link"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/test/memnet"
)

// TestSendingWaitsForNobody: readers and the directory leave what they send to
// the link's writer, of any kind, also when there is none at work yet and the
// other side takes nothing (D1, L9).
func TestSendingWaitsForNobody(t *testing.T) {
	for name, send := range map[string]func(*end){
		"control": func(e *end) { e.SendControl(wire.AppendTally(nil, wire.Tally{Session: 1})) },
		"entries": func(e *end) { e.SendEntries([]wire.Entry{{Kind: wire.Digest, ID: 1}}) },
		"message": func(e *end) { e.send(1, numbered(0, 1200)) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open := make(chan struct{})
				g := &gate{&trace{}, open}
				_, a, b := memory(t, memnet.Config{Buffer: 1 << 10}, func(a, b *link.Config) {
					quiet(a, b)
					a.Stall = time.Hour
					b.Handler = g
				})
				defer b.Close(nil)
				defer close(open)
				a.SendControl(wire.AppendUse(nil, 1)) // b's reader stops here
				start := time.Now()
				for range 300 {
					send(a)
					synctest.Wait() // the writer has ended, or waits for b
				}
				if took := time.Since(start); took != 0 {
					t.Errorf("it took %v", took)
				}
				if !a.Writing() {
					t.Error("all of it was taken: the test shows nothing")
				}
			})
		})
	}
}

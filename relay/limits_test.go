package relay_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/oslimit"
	"github.com/crosspod/crosspod/relay"
)

// The log says once how much queues may hold, and what that follows from.
func TestMemoryForQueuesIsLogged(t *testing.T) {
	memory := oslimit.FindMemory()
	for _, tt := range []struct{ limit, want int64 }{{0, memory.Bytes / 4}, {2 << 20, 2 << 20}} {
		var log bytes.Buffer
		_, err := relay.NewRelay(relay.Config{
			ExposedAddress: "relay.example.com:443",
			AuthValidator:  auth.NewValidator("secret"),
			Logger:         slog.New(slog.NewTextHandler(&log, nil)),
			Limits:         relay.Limits{TotalQueueBytes: tt.limit},
		})
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("msg=\"memory for queues\" bytes=%d memory=%d from=%s\n", tt.want, memory.Bytes, memory.From)
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("TotalQueueBytes %d: the log is\n%swant once %s", tt.limit, log.String(), want)
		}
	}
}

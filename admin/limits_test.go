package admin

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/internal/test/memnet"
)

// onMemnet runs f in a bubble, with a server on the ports 9000 (health) and 9091
// (operations with pprof) of host "pod". Times are at full length there.
func onMemnet(t *testing.T, probe Probe, f func(t *testing.T, host *memnet.Host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		health := NewHealth(probe, nil)
		health.SetListeners("ws")
		server, err := New(Config{
			HealthAddress: ":9000", Health: health,
			OpsAddress: "localhost:9091", LogLevel: new(slog.LevelVar), Pprof: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		host := memnet.New(memnet.Config{}).Host("pod")
		for _, e := range server.ends { // what Listen does, on this network
			_, port, err := net.SplitHostPort(e.address)
			if err != nil {
				t.Fatal(err)
			}
			ln, err := host.Listen("tcp", ":"+port)
			if err != nil {
				t.Fatal(err)
			}
			e.ln = newCrowd(ln, maxConns)
		}
		server.listening = true
		done := make(chan error, 1)
		go func() { done <- server.Serve() }()
		f(t, host)
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
}

func dial(t *testing.T, host *memnet.Host, port string) net.Conn {
	t.Helper()
	conn, err := host.Dial(t.Context(), "tcp", net.JoinHostPort(host.Name(), port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // the server may have closed it
	return conn
}

// get sends a GET on conn and returns the status, the body and how long it took.
func get(t *testing.T, conn net.Conn, path string) (int, string, time.Duration) {
	t.Helper()
	start := time.Now()
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("%s after %v: %v", path, time.Since(start), err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("%s after %v: %v", path, time.Since(start), err)
	}
	return resp.StatusCode, string(body), time.Since(start)
}

func hang(ctx context.Context) (bool, error) {
	<-ctx.Done()
	return false, ctx.Err()
}

// A probe may take as long as the reading of a request may.
func TestHangingProbeIsAnAnswer(t *testing.T) {
	onMemnet(t, hang, func(t *testing.T, host *memnet.Host) {
		status, body, took := get(t, dial(t, host, "9000"), "/health")
		if status != http.StatusServiceUnavailable || !strings.Contains(body, `"status":"unhealthy"`) || took != probeTimeout {
			t.Errorf("/health = %d %s after %v, want 503 unhealthy after %v", status, body, took, probeTimeout)
		}
	})
}

// A profile may take longer than an answer may.
func TestProfileTakesTheTimeItWasAskedTo(t *testing.T) {
	onMemnet(t, hang, func(t *testing.T, host *memnet.Host) {
		const path = "/debug/pprof/goroutine?seconds=60" // the difference of two
		status, body, took := get(t, dial(t, host, "9091"), path)
		if status != http.StatusOK || body == "" || took != time.Minute {
			t.Errorf("%s = %d, %d bytes after %v, want 200 after 1 min", path, status, len(body), took)
		}
	})
}

func TestSilentClientsAreClosed(t *testing.T) {
	tests := []struct {
		name  string
		start func(t *testing.T, conn net.Conn)
		want  time.Duration // until the server closes
	}{
		{"nothing", func(*testing.T, net.Conn) {}, readTimeout},
		{"half a header", func(t *testing.T, conn net.Conn) {
			if _, err := io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: "); err != nil {
				t.Error(err)
			}
		}, readTimeout},
		{"idle after a request", func(t *testing.T, conn net.Conn) {
			if status, _, _ := get(t, conn, "/livez"); status != http.StatusOK {
				t.Errorf("/livez = %d, want 200", status)
			}
		}, idleTimeout},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onMemnet(t, hang, func(t *testing.T, host *memnet.Host) {
				conn := dial(t, host, "9000")
				start := time.Now()
				tt.start(t, conn)
				_, err := io.Copy(io.Discard, conn)
				if took := time.Since(start); err != nil || took != tt.want {
					t.Errorf("closed with %v after %v, want after %v", err, took, tt.want)
				}
			})
		})
	}
}

// Those who connect and say nothing keep no probe out.
func TestSilentCrowdKeepsNobodyOut(t *testing.T) {
	onMemnet(t, hang, func(t *testing.T, host *memnet.Host) {
		var silent []net.Conn
		for range 2 * maxConns {
			silent = append(silent, dial(t, host, "9000"))
			synctest.Wait() // accepted, since memnet keeps fewer waiting
		}
		if status, _, took := get(t, dial(t, host, "9000"), "/livez"); status != http.StatusOK || took != 0 {
			t.Errorf("/livez = %d after %v, want 200 at once", status, took)
		}
		closed := 0
		for _, conn := range silent {
			if err := conn.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
				closed++
			}
		}
		if want := maxConns + 1; closed != want {
			t.Errorf("%d are closed, want the oldest %d", closed, want)
		}
	})
}

// Close ends a probe that is under way, and waits for it.
func TestCloseCutsAProbe(t *testing.T) {
	ended := false
	probe := func(ctx context.Context) (bool, error) {
		<-ctx.Done()
		time.Sleep(time.Second) // takes its time
		ended = true
		return false, ctx.Err()
	}
	onMemnet(t, probe, func(t *testing.T, host *memnet.Host) {
		if _, err := io.WriteString(dial(t, host, "9000"), "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
	})
	if !ended {
		t.Error("Close returned while a probe was under way")
	}
}

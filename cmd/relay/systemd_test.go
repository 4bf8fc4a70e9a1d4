package main

import (
	"net"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"
	"time"
)

// What systemd hears of a relay, from its start to its end.
func TestSystemd(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Skip(err) // there is no such socket here, and no systemd
	}
	defer conn.Close()
	// hears waits for a state; WATCHDOG=1 comes in between.
	hears := func(want string) {
		t.Helper()
		buf := make([]byte, 1000)
		for {
			_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("%v, want %s", err, want)
			}
			switch got := string(buf[:n]); {
			case regexp.MustCompile("^" + want + "$").MatchString(got):
				return
			case got != "WATCHDOG=1":
				t.Fatalf("%q, want %s", got, want)
			}
		}
	}
	t.Setenv("NOTIFY_SOCKET", socket)
	t.Setenv("WATCHDOG_USEC", "4000000")
	d := startDaemon(t, "-s", "secret", "--drain-delay", "0s", "--drain-grace", "3m")
	hears("READY=1")
	hears("WATCHDOG=1")
	if err := d.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	hears("RELOADING=1\nMONOTONIC_USEC=\\d+\n")
	hears("READY=1")
	hears("WATCHDOG=1")
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	hears("STOPPING=1\nEXTEND_TIMEOUT_USEC=190000000")
	if err := d.Wait(); err != nil {
		t.Error(err)
	}
}

package main

import (
	"bufio"
	"context"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/internal/test/testcert"
)

// quiet are the options of a relay that is alone, on ports of its own, and ends
// as soon as it gets a signal.
func quiet(more ...string) []string {
	return append([]string{"-l", "127.0.0.1:0", "-e", "relay.example.com:443", "--metrics-listen-address", "127.0.0.1:0", "-H", "127.0.0.1:0",
		"--ops-listen-address", "127.0.0.1:0", "--drain-delay", "0s", "--drain-grace", "0s"}, more...)
}

// address returns the address in the line of the log that has part.
func (l *live) address(t *testing.T, part string) string {
	t.Helper()
	_, rest, _ := strings.Cut(l.stderr.Line(t, part), "address=")
	return strings.Fields(rest)[0]
}

// scrape returns the metrics of a pod.
func (l *live) scrape(t *testing.T) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+l.address(t, "for=metrics")+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// A frozen log holds up neither a peer that takes over its id nor the
// end of the pod.
func TestFrozenLog(t *testing.T) {
	pod := runLive(t, nil, quiet("-s", "secret")...)
	url := "rel://" + pod.address(t, "tls=false")
	metrics := pod.scrape(t)
	for _, reason := range []string{"queue_full", "write_failed"} {
		if !regexp.MustCompile(`(?m)^relay_log_lines_lost_total\{.*reason="` + reason + `".*\} 0$`).MatchString(metrics) {
			t.Errorf("no relay_log_lines_lost_total of 0 for %s", reason)
		}
	}
	pod.stderr.freeze.Lock()
	defer pod.stderr.freeze.Unlock()
	connect := func(name string) *client.Client {
		t.Helper()
		c, err := client.Dial(t.Context(), client.Config{URL: url, Name: name, Token: client.SecretToken("secret", time.Hour), MinBackoff: time.Hour, MaxBackoff: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // returns nil
		return c
	}
	connect("alice")
	alice, bob := connect("alice"), connect("bob")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	there, err := alice.OpenConn(ctx, bob.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	back, err := bob.OpenConn(ctx, alice.PeerID())
	if err != nil {
		t.Fatal(err)
	}
	for _, way := range []struct{ from, to io.ReadWriter }{{there, back}, {back, there}} {
		if _, err := io.WriteString(way.from, "hello"); err != nil {
			t.Fatal(err)
		}
		_ = back.SetReadDeadline(time.Now().Add(time.Minute))
		_ = there.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := way.to.Read(make([]byte, 100)); err != nil || n != len("hello") {
			t.Fatalf("read %d bytes, %v", n, err)
		}
	}
	pod.signals <- syscall.SIGTERM
	select {
	case code := <-pod.code:
		if code != exitOK {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(time.Minute):
		t.Error("SIGTERM does not end the pod")
	}
}

// daemon is relay start in a process of its own, for signals.
type daemon struct {
	*exec.Cmd
	stderr *os.File // where its log comes out, unless it goes elsewhere
	log    *bufio.Reader
}

func startDaemon(t *testing.T, args ...string) *daemon {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	stderr, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{Cmd: exec.Command(self, quiet(args...)...), stderr: stderr, log: bufio.NewReader(stderr)}
	d.Env = append(withoutSettings(os.Environ()), asCommand+"=1")
	d.Stderr = write
	err = d.Start()
	_ = write.Close() // the daemon has its own
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.Process.Kill() // fails where it has ended
		_ = stderr.Close()
	})
	return d
}

// says reads the log up to a line with part.
func (d *daemon) says(t *testing.T, part string) string {
	t.Helper()
	var text strings.Builder
	for {
		line, err := d.log.ReadString('\n')
		text.WriteString(line)
		switch {
		case err != nil:
			t.Fatalf("the log ends (%v) without %q:\n%s", err, part, &text)
		case strings.Contains(line, part):
			return line
		}
	}
}

// ends stops the daemon in order.
func (d *daemon) ends(t *testing.T) {
	t.Helper()
	_ = d.Process.Signal(syscall.SIGTERM) // fails where it has ended
	if err := d.Wait(); err != nil {
		t.Errorf("the relay ended with %v", err)
	}
}

// logrotate moves the log file away and sends SIGHUP.
func TestHangup(t *testing.T) {
	dir := t.TempDir()
	file, moved := filepath.Join(dir, "relay.log"), filepath.Join(dir, "relay.log.1")
	d := startDaemon(t, "-s", "secret", "--log-file", file)
	has := func(file, part string) {
		t.Helper()
		for range 6000 {
			if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), part) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("no %q in %s", part, file)
	}
	has(file, "relay starts")
	if err := os.Rename(file, moved); err != nil {
		t.Fatal(err)
	}
	if err := d.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	has(file, "hangup: ")
	d.ends(t)
	has(file, "relay has stopped")
}

// The reader of standard error goes away: lines are lost, and nothing else is.
func TestReaderOfTheLogGoesAway(t *testing.T) {
	d := startDaemon(t, "-s", "secret")
	_, rest, _ := strings.Cut(d.says(t, "for=operations"), "address=")
	d.says(t, "relay starts")
	if err := d.stderr.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the first logs a line, the second notices that the reader has gone
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+strings.TrimSpace(rest)+"/v1/log-level", strings.NewReader("info"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close() // nothing is read
	}
	d.ends(t)
}

// A certificate that has ended is said, and so is when it did.
func TestCertificateThatHasEnded(t *testing.T) {
	end := time.Now().Add(-time.Hour).Truncate(time.Second)
	certFile, keyFile := writeCertificate(t, end)
	pod := runLive(t, nil, quiet("-s", "secret", "-c", certFile, "-k", keyFile)...)
	pod.stderr.Line(t, "certificate has expired")
	found := regexp.MustCompile(`(?m)^relay_certificate_expiry_timestamp_seconds.* (\S+)$`).FindStringSubmatch(pod.scrape(t))
	if found == nil {
		t.Fatal("no metric of the end")
	}
	if got, err := strconv.ParseFloat(found[1], 64); err != nil || int64(got) != end.Unix() {
		t.Errorf("the certificate ends at %s, want %d", found[1], end.Unix())
	}
}

// writeCertificate writes a certificate for relay.example.com and 127.0.0.1, which
// vouches for itself, and its key.
func writeCertificate(t *testing.T, end time.Time) (certFile, keyFile string) {
	t.Helper()
	cert, key := testcert.New(t, "relay.example.com", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter, c.IsCA = end.Add(-2*time.Hour), end, false
	}).PEM(t)
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	for file, text := range map[string][]byte{certFile: cert, keyFile: key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// withoutSettings returns the variables of environ that set nothing of a relay.
func withoutSettings(environ []string) []string {
	return slices.DeleteFunc(environ, func(variable string) bool {
		return slices.ContainsFunc(setting.Prefixes, func(p string) bool { return strings.HasPrefix(variable, p) })
	})
}

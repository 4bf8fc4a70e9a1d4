package acme

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/miekg/dns"
)

const (
	domain = "relay.crosspod.test"
	// patience is how long the test waits for what must happen.
	patience = 60 * time.Second
)

func TestCertificate(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "relay")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "./cmd/relay")
	build.Dir = filepath.Join("..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}

	directory := newDirectory(t)
	data := t.TempDir()
	args := []string{
		"start", "--listen-address=127.0.0.1:0", "--exposed-address=" + domain, "--auth-secret=secret",
		"--metrics-listen-address=127.0.0.1:0", "--health-listen-address=127.0.0.1:0", "--ops-listen-address=127.0.0.1:0",
		"--letsencrypt-data-dir=" + data, "--letsencrypt-domains=" + domain, "--letsencrypt-email=ops@crosspod.test",
		"--letsencrypt-directory=" + directory.url, "--letsencrypt-ca-file=" + directory.caFile,
		"--handshake-timeout=1m", "--drain-delay=0s",
	}

	first := startRelay(t, binary, args)
	directory.serve(t, first.port)
	serial := handshake(t, first, directory.roots)
	if n := directory.requests.Load(); n == 0 {
		t.Error("the directory was not asked")
	}
	if _, err := os.Stat(filepath.Join(data, "letsencrypt", domain)); err != nil {
		t.Errorf("certificate is not kept: %v", err)
	}
	first.stop(t)

	// The next start has it at hand.
	asked := directory.requests.Load()
	second := startRelay(t, binary, args)
	if again := handshake(t, second, directory.roots); again != serial {
		t.Errorf("serial %s after a restart, want %s as before", again, serial)
	}
	if n := directory.requests.Load(); n != asked {
		t.Errorf("the directory was asked %d times more", n-asked)
	}
	if conn, err := tls.Dial("tcp", second.addr, &tls.Config{ServerName: "other.crosspod.test", RootCAs: directory.roots}); err == nil {
		conn.Close()
		t.Error("a handshake for another name succeeded")
	}
	second.stop(t)
}

// handshake connects as a client that would speak HTTP/2 too, and returns the
// serial number of the certificate.
func handshake(t *testing.T, r *relay, roots *x509.CertPool) string {
	t.Helper()
	dialer := &net.Dialer{Timeout: patience}
	conn, err := tls.DialWithDialer(dialer, "tcp", r.addr, &tls.Config{
		ServerName: domain, RootCAs: roots, NextProtos: []string{"h2", "http/1.1"},
	})
	if err != nil {
		t.Fatalf("handshake: %v\n%s", err, r.end())
	}
	defer conn.Close()
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != "http/1.1" {
		t.Errorf("ALPN %q, want http/1.1", state.NegotiatedProtocol)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET /nothing HTTP/1.1\r\nHost: "+domain+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("GET /nothing: %s, want 404", resp.Status)
	}
	return state.PeerCertificates[0].SerialNumber.String()
}

// relay is a running relay binary.
type relay struct {
	cmd  *exec.Cmd
	addr string
	port int
	log  *bytes.Buffer // of the goroutine that reads it, until done
	done chan struct{}
}

func startRelay(t *testing.T, binary string, args []string) *relay {
	t.Helper()
	r := &relay{cmd: exec.Command(binary, args...), log: new(bytes.Buffer), done: make(chan struct{})}
	r.cmd.Env = []string{}
	stderr, err := r.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.end() })
	addr := make(chan string, 1)
	go func() {
		defer close(r.done)
		lines := bufio.NewScanner(stderr)
		for lines.Scan() {
			r.log.WriteString(lines.Text() + "\n")
			if _, rest, ok := strings.Cut(lines.Text(), "msg=listening address="); ok {
				addr <- strings.Fields(rest)[0]
			}
		}
		close(addr)
		_ = r.cmd.Wait() // stop looks at the exit code
	}()
	select {
	case r.addr = <-addr:
	case <-time.After(patience):
	}
	_, port, err := net.SplitHostPort(r.addr)
	if err != nil {
		t.Fatalf("the relay does not listen: %s", r.end())
	}
	if r.port, err = strconv.Atoi(port); err != nil {
		t.Fatal(err)
	}
	return r
}

// end kills the relay if it still runs, and returns its log.
func (r *relay) end() string {
	_ = r.cmd.Process.Kill() // it may have ended
	<-r.done
	return r.log.String()
}

func (r *relay) stop(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-r.done:
	case <-time.After(patience):
		t.Fatalf("the relay does not stop\n%s", r.end())
	}
	if code := r.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d\n%s", code, r.log)
	}
}

// directory is Pebble, and the names it looks up.
type directory struct {
	url      string
	caFile   string         // vouches for the directory itself
	roots    *x509.CertPool // vouch for what it issues
	requests atomic.Int64
	handler  atomic.Pointer[http.Handler]
}

func newDirectory(t *testing.T) *directory {
	t.Helper()
	d := new(directory)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.requests.Add(1)
		(*d.handler.Load()).ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	d.url = srv.URL + wfe.DirectoryPath
	d.caFile = filepath.Join(t.TempDir(), "ca.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(d.caFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return d
}

// serve starts Pebble, which proves domains on the port given.
func (d *directory) serve(t *testing.T, port int) {
	t.Helper()
	// Without the faults it makes on purpose: those are for ACME clients.
	t.Setenv("PEBBLE_VA_NOSLEEP", "1")
	t.Setenv("PEBBLE_WFE_NONCEREJECT", "0")
	logger := log.New(io.Discard, "", 0)
	store := db.NewMemoryStore()
	issuer := ca.New(logger, store, "", "ecdsa", 0, 1, map[string]ca.Profile{"default": {Description: "default"}})
	validator := va.New(logger, 0, port, false, serveNames(t), store)
	front := wfe.New(logger, store, validator, issuer, []string{"pebble.letsencrypt.org"}, false, false, 0, 0)
	handler := front.Handler()
	d.handler.Store(&handler)
	d.roots = x509.NewCertPool()
	d.roots.AddCert(issuer.GetRootCert(0).Cert)
}

// serveNames says that every name is at 127.0.0.1, and returns where it does.
func serveNames(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // what Pebble asks over
	if err != nil {
		t.Fatal(err)
	}
	srv := &dns.Server{Listener: ln, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		answer := new(dns.Msg).SetReply(q)
		for _, question := range q.Question {
			if question.Qtype == dns.TypeA {
				answer.Answer = append(answer.Answer, &dns.A{
					Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
					A:   net.IPv4(127, 0, 0, 1),
				})
			}
		}
		_ = w.WriteMsg(answer) // whoever asks asks again
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ActivateAndServe() // ends with Shutdown
	}()
	t.Cleanup(func() {
		_ = srv.Shutdown() // it is on its way out either way
		<-done
	})
	return ln.Addr().String()
}

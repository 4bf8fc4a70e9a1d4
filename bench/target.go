package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// startTimeout is how long a server may take from its start to the first
// authenticated peer.
const startTimeout = 20 * time.Second

// ServerConfig is what a server is started with.
type ServerConfig struct {
	// Address is where it listens for peers, host:port on loopback.
	Address string
	// Secret is the secret of the peers' tokens.
	Secret string
	// CertFile and KeyFile are PEM files, empty for a server without TLS.
	CertFile, KeyFile string
	// Cluster is set for a pod of several; nil for a relay by itself. A
	// [CommandTemplate] has no word for it.
	Cluster *ClusterConfig
}

// CommandTemplate returns a function that makes the command of a server from
// words, the program first, without a shell. In each word {addr}, {secret},
// {cert} and {key} are replaced by the fields of [ServerConfig], {url} by the
// address as rel:// or rels://, {free} by a free loopback address and
// {freeport} by the port of one, a new one for each word. For a server without
// TLS a word that holds {cert} or {key} is left out, and so is the option just
// before it, so that one template serves both.
func CommandTemplate(words ...string) func(ServerConfig) (*exec.Cmd, error) {
	return func(c ServerConfig) (*exec.Cmd, error) {
		if c.Cluster != nil {
			return nil, errors.New("the pods section measures our own relay only: --server-command cannot say how pods find each other")
		}
		var args []string
		for _, word := range words {
			if c.CertFile == "" && (strings.Contains(word, "{cert}") || strings.Contains(word, "{key}")) {
				if last := len(args) - 1; last > 0 && strings.HasPrefix(args[last], "-") && !strings.HasPrefix(word, "-") {
					args = args[:last]
				}
				continue
			}
			var free string
			if strings.Contains(word, "{free") {
				var err error
				if free, err = freeAddress(); err != nil {
					return nil, err
				}
			}
			_, port, _ := strings.Cut(free, ":")
			args = append(args, strings.NewReplacer("{addr}", c.Address, "{secret}", c.Secret,
				"{cert}", c.CertFile, "{key}", c.KeyFile, "{free}", free, "{freeport}", port,
				"{url}", address{hostPort: c.Address, tls: c.CertFile != ""}.String()).Replace(word))
		}
		if len(args) == 0 {
			return nil, errors.New("empty server command")
		}
		return exec.Command(args[0], args[1:]...), nil
	}
}

// freeAddress returns a loopback address that nobody listened on a moment ago.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// child is a process that bench started and ends.
type child struct {
	cmd  *exec.Cmd
	log  *os.File // what it wrote to stderr, and stdout unless that is read
	done chan struct{}
}

// startChild starts cmd with its output in a file in dir. A pipe would cost the
// generator a copy of every line.
func startChild(cmd *exec.Cmd, dir string) (*child, error) {
	log, err := os.CreateTemp(dir, "child-*.log")
	if err != nil {
		return nil, err
	}
	cmd.Stderr = log
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.SysProcAttr = endWithParent()
	if err := cmd.Start(); err != nil {
		log.Close()
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	c := &child{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		_ = cmd.Wait() // it is killed, or the reader of the log says why it went
	}()
	return c, nil
}

// stop kills the process and waits for its end. It holds nothing worth a
// graceful end.
func (c *child) stop() {
	_ = c.cmd.Process.Kill() // it may have ended by itself
	<-c.done
	c.log.Close()
}

// ended reports whether the process has ended, and its last words.
func (c *child) ended() (string, bool) {
	select {
	case <-c.done:
	default:
		return "", false
	}
	b, err := os.ReadFile(c.log.Name())
	if err != nil {
		return "", true
	}
	b = bytes.TrimSpace(b)
	return string(b[max(0, len(b)-1000):]), true
}

// target is something that carries bytes between two connections.
type target interface {
	// pairs connects n pairs of peers with read buffers of buffer bytes.
	pairs(ctx context.Context, n, buffer int) ([]pair, error)
	// cpu returns the CPU time used by the server so far, errNoPID when its
	// pid is not known.
	cpu() (time.Duration, error)
}

var errNoPID = errors.New("bench: the server's pid is not known (--pid)")

// relayTarget is a relay, started by bench or not.
type relayTarget struct {
	addr   address
	secret string
	pid    int // 0: unknown
	run    string
	peers  *atomic.Int64 // how many ids of this run are in use
	child  *child        // nil when it was there before
}

func (t *relayTarget) cpu() (time.Duration, error) {
	if t.pid == 0 {
		return 0, errNoPID
	}
	return processCPU(t.pid)
}

func (t *relayTarget) memory() (memory, error) {
	if t.pid == 0 {
		return memory{}, errNoPID
	}
	return processMemory(t.pid)
}

func (t *relayTarget) close() {
	if t.child != nil {
		t.child.stop()
	}
}

// dial connects one peer with an id of its own.
func (t *relayTarget) dial(ctx context.Context, buffer int) (*peer, error) {
	return dialPeer(ctx, t.addr, t.secret, destination(t.run, int(t.peers.Add(1))), buffer)
}

// dialReachable is dial, and waits until messages reach the peer.
func (t *relayTarget) dialReachable(ctx context.Context, buffer int) (*peer, error) {
	p, err := t.dial(ctx, buffer)
	if err != nil {
		return nil, err
	}
	if err := p.reachable(); err != nil {
		p.conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", t.addr, err)
	}
	return p, nil
}

func (t *relayTarget) pairs(ctx context.Context, n, buffer int) ([]pair, error) {
	return dialPairs(ctx, n, func(ctx context.Context, _, _ int) (*peer, error) { return t.dialReachable(ctx, buffer) })
}

// copierTarget is the baseline.
type copierTarget struct {
	hostPort string
	child    *child
	made     atomic.Uint64 // pairs so far
}

func (t *copierTarget) cpu() (time.Duration, error) { return processCPU(t.child.cmd.Process.Pid) }

func (t *copierTarget) close() { t.child.stop() }

func (t *copierTarget) pairs(ctx context.Context, n, buffer int) ([]pair, error) {
	first := t.made.Add(uint64(n)) - uint64(n)
	return dialPairs(ctx, n, func(ctx context.Context, i, side int) (*peer, error) {
		p, err := dialCopied(ctx, t.hostPort, first+uint64(i), buffer)
		if err != nil {
			return nil, err
		}
		// The copier does not look at it; the bytes are those for a relay.
		p.id = destination("copier", 2*i+side)
		return p, nil
	})
}

// dialPairs connects both sides of n pairs, a few at the same time.
func dialPairs(ctx context.Context, n int, dial func(ctx context.Context, i, side int) (*peer, error)) ([]pair, error) {
	pairs := make([]pair, n)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(32) // even: both sides of a pair must be under way together
	for i := range pairs {
		for side, p := range []**peer{&pairs[i].a, &pairs[i].b} {
			group.Go(func() (err error) {
				*p, err = dial(ctx, i, side)
				return err
			})
		}
	}
	if err := group.Wait(); err != nil {
		for _, p := range pairs {
			for _, side := range []*peer{p.a, p.b} {
				if side != nil {
					side.conn.Close()
				}
			}
		}
		return nil, err
	}
	return pairs, nil
}

// startCopier starts the copier's process.
func (r *runner) startCopier(ctx context.Context) (*copierTarget, error) {
	cmd, err := r.o.Copier()
	if err != nil {
		return nil, err
	}
	out, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout = in
	c, err := startChild(cmd, r.dir)
	in.Close()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { out.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	out.SetReadDeadline(time.Now().Add(startTimeout))
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		c.stop()
		last, _ := c.ended()
		return nil, fmt.Errorf("the copier did not say where it listens: %w %s", err, last)
	}
	return &copierTarget{hostPort: strings.TrimSpace(line), child: c}, nil
}

// relay returns the relay to measure: the one at Options.URL, or a new process.
func (r *runner) relay(ctx context.Context, withTLS bool) (*relayTarget, error) {
	t := &relayTarget{secret: r.o.Secret, run: r.run, peers: &r.peers}
	if r.o.URL != "" {
		t.addr, t.pid = r.addr, r.o.PID
		return t, nil
	}
	hostPort, err := freeAddress()
	if err != nil {
		return nil, err
	}
	t.addr = address{hostPort: hostPort, tls: withTLS}
	config := ServerConfig{Address: hostPort, Secret: r.o.Secret}
	if withTLS {
		if err := r.makeCertificate(); err != nil {
			return nil, err
		}
		config.CertFile, config.KeyFile = r.certFile, r.keyFile
		t.addr = t.addr.withTrust(r.roots, false)
	}
	cmd, err := r.o.Server(config)
	if err != nil {
		return nil, err
	}
	if t.child, err = startChild(cmd, r.dir); err != nil {
		return nil, err
	}
	t.pid = t.child.cmd.Process.Pid
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		p, err := t.dial(ctx, idleBuffer)
		if err == nil {
			p.conn.Close()
			return t, nil
		}
		last, ended := t.child.ended()
		if ended {
			t.close()
			return nil, fmt.Errorf("the server ended at once: %s", last)
		}
		select {
		case <-ctx.Done():
			t.close()
			return nil, fmt.Errorf("the server did not come up within %v: %w", startTimeout, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// makeCertificate makes a self-signed one for loopback in the run's folder,
// once.
func (r *runner) makeCertificate() error {
	if r.roots != nil {
		return nil
	}
	r.certFile, r.keyFile = filepath.Join(r.dir, "cert.pem"), filepath.Join(r.dir, "key.pem")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "relay bench"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		IsCA:         true, BasicConstraintsValid: true, // it vouches for itself
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	for file, block := range map[string]*pem.Block{
		r.certFile: {Type: "CERTIFICATE", Bytes: der},
		r.keyFile:  {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	r.roots = x509.NewCertPool()
	r.roots.AddCert(cert)
	return nil
}

// closeAll closes every connection of pairs.
func closeAll(pairs []pair) {
	for _, p := range pairs {
		p.close()
	}
}

// readIdle reads connections that should stay silent, so that health checks are
// answered, until they are closed. The returned function waits for their end.
func readIdle(peers ...*peer) (wait func()) {
	var readers sync.WaitGroup
	for _, p := range peers {
		// The error is the closing of the connection; if the relay closed it,
		// whoever writes to it finds out.
		readers.Go(func() { _, _ = p.idle() })
	}
	return readers.Wait
}

package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/crosspod/crosspod/messages"
)

// startTimeout is how long a server may take from its start to the first
// authenticated peer.
const startTimeout = 20 * time.Second

// pair is two connected peers; a sends, as a rule.
type pair struct{ a, b *peer }

func (p pair) close() {
	p.a.conn.Close()
	p.b.conn.Close()
}

func closeAll(pairs []pair) {
	for _, p := range pairs {
		p.close()
	}
}

// target is what carries bytes between two peers: a relay, the pods of a relay,
// or the copier.
type target struct {
	name    string
	base    string // the name of the target it is compared with
	servers []*server
	copier  bool
	same    bool // the pods of another target, with all pairs on one of them
	// place says which server each side (0, 1) of pair i connects to; nil: the first.
	place func(i, side int) int
}

// cpu returns the CPU time of all servers so far.
func (t *target) cpu() (sum time.Duration, err error) {
	for _, s := range t.servers {
		d, err := processCPU(s.pid)
		if err != nil {
			return 0, err
		}
		sum += d
	}
	return sum, nil
}

// pairs connects n pairs, a few at the same time, and returns when messages pass
// both ways.
func (t *target) pairs(ctx context.Context, n int) (_ []pair, err error) {
	if t.copier {
		return t.copiedPairs(n)
	}
	sides := make([]*peer, 2*n)
	group, dialing := errgroup.WithContext(ctx)
	group.SetLimit(32)
	for k := range sides {
		group.Go(func() (err error) {
			s := t.servers[0]
			if t.place != nil {
				s = t.servers[t.place(k/2, k%2)]
			}
			if sides[k], err = s.dial(dialing, newID(), busyBuffer); err != nil {
				return err
			}
			// The relay answers a handshake before it makes the peer visible.
			return sides[k].hear(dialing, sides[k])
		})
	}
	err = group.Wait()
	var pairs []pair
	for k := 0; k < len(sides) && err == nil; k += 2 {
		p := pair{sides[k], sides[k+1]}
		pairs = append(pairs, p)
		err = errors.Join(p.a.hear(ctx, p.b), p.b.hear(ctx, p.a))
	}
	for _, side := range sides {
		if err != nil && side != nil {
			side.conn.Close()
		}
	}
	return pairs, err
}

func newID() messages.PeerID { return messages.HashID("bench " + rand.Text()) }

// server is a process that bench started.
type server struct {
	addr   address
	secret string
	pid    int
	cmd    *exec.Cmd
	done   chan struct{} // closed when it has ended
}

func (s *server) dial(ctx context.Context, id messages.PeerID, buffer int) (*peer, error) {
	return dialPeer(ctx, s.addr, s.secret, id, buffer)
}

// launch starts cmd. What it prints goes to our stderr.
func (s *server) launch(cmd *exec.Cmd) error {
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = endWithParent()
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd, s.pid, s.done = cmd, cmd.Process.Pid, make(chan struct{})
	go func() {
		defer close(s.done)
		_ = cmd.Wait() // it is killed, or has said why it ends
	}()
	return nil
}

// stop kills the process and waits for its end. It holds nothing worth a
// graceful one.
func (s *server) stop() {
	_ = s.cmd.Process.Kill() // it may have ended by itself
	<-s.done
}

// relayCommand is the command of a relay of ours, all on loopback, with hardly a log
// line; see [command] for the words in braces.
const relayCommand = "{relay} start --listen-address {addr} --exposed-address {url} --auth-secret {secret} " +
	"--tls-cert-file {cert} --tls-key-file {key} --log-level error " +
	"--metrics-listen-address {free} --health-listen-address {free} --ops-listen-address {free}"

// command fills in the words of a server's command, which is split at spaces,
// without a shell. A word with {cert} or {key} is left out for a server without
// TLS, with the option before it, so that one command serves both.
func command(template string, words map[string]string) (*exec.Cmd, error) {
	var args []string
	for _, word := range strings.Fields(template) {
		if words["{cert}"] == "" && (strings.Contains(word, "{cert}") || strings.Contains(word, "{key}")) {
			if last := len(args) - 1; last > 0 && strings.HasPrefix(args[last], "-") && !strings.HasPrefix(word, "-") {
				args = args[:last]
			}
			continue
		}
		if strings.Contains(word, "{free") {
			free, err := freeAddress()
			if err != nil {
				return nil, err
			}
			word = strings.NewReplacer("{free}", free, "{freeport}", free[strings.LastIndex(free, ":")+1:]).Replace(word)
		}
		for name, value := range words {
			word = strings.ReplaceAll(word, name, value)
		}
		args = append(args, word)
	}
	if len(args) == 0 {
		return nil, errors.New("empty server command")
	}
	cmd := exec.Command(args[0], args[1:]...)
	for _, v := range os.Environ() { // nothing from outside may change the server
		if !strings.HasPrefix(v, "RELAY_") && !strings.HasPrefix(v, "NB_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	return cmd, nil
}

// freeAddress returns a loopback address that nothing listened on a moment ago.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer ln.Close()
	return ln.Addr().String(), nil
}

// startServer starts one relay, with the binary given, and returns when a peer
// can connect to it. own and all are the addresses of a pod and of all pods of the
// relay for each other; secret is that of both peers and pods.
func (b *bench) startServer(ctx context.Context, binary string, withTLS bool, secret, own string, all []string) (_ *server, err error) {
	hostPort, err := freeAddress()
	if err != nil {
		return nil, err
	}
	s := &server{addr: address{hostPort: hostPort}, secret: secret}
	words := map[string]string{"{relay}": binary, "{addr}": hostPort, "{secret}": secret}
	if withTLS {
		if words["{cert}"], words["{key}"], err = b.certificate(); err != nil {
			return nil, err
		}
		s.addr.trust = &tls.Config{InsecureSkipVerify: true} // it is the one just made
	}
	words["{url}"] = s.addr.String()
	template := b.serverCommand
	if own != "" {
		words["{url}"] = "rel://" + all[0] // the pods of one relay have one address
		host, port, _ := net.SplitHostPort(own)
		template += fmt.Sprintf(" --pod-ip %s --cluster-port %s --cluster-peers %s --cluster-auth-secret %s", host, port, strings.Join(all, ","), secret)
	}
	cmd, err := command(template, words)
	if err != nil {
		return nil, err
	}
	if err := s.launch(cmd); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		p, err := s.dial(ctx, newID(), idleBuffer)
		if err == nil {
			p.conn.Close()
			return s, nil
		}
		select {
		case <-s.done:
			err = errors.New("the server ended at once")
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
			continue
		}
		s.stop()
		return nil, fmt.Errorf("%s did not come up: %w", cmd.Path, err)
	}
}

// startPods starts n pods of one relay.
func (b *bench) startPods(ctx context.Context, binary string, n int) (pods []*server, err error) {
	all := make([]string, n)
	for i := range all {
		if all[i], err = freeAddress(); err != nil {
			return nil, err
		}
	}
	secret := rand.Text() + rand.Text()
	for _, own := range all {
		s, err := b.startServer(ctx, binary, false, secret, own, all)
		if err != nil {
			stopAll(pods)
			return nil, err
		}
		pods = append(pods, s)
	}
	return pods, nil
}

func stopAll(servers []*server) {
	for _, s := range servers {
		s.stop()
	}
}

// startCopier starts this program as the copier.
func (b *bench) startCopier() (*target, error) {
	cmd := exec.Command(b.self, "copier")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s := &server{}
	if err := s.launch(cmd); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("the copier did not print where it listens: %w", err)
	}
	s.addr.hostPort = strings.TrimSpace(line)
	return &target{name: "copier", copier: true, servers: []*server{s}}, nil
}

// certificate makes a self-signed certificate, once, and returns its files.
func (b *bench) certificate() (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(b.dir, "cert.pem"), filepath.Join(b.dir, "key.pem")
	if _, err := os.Stat(keyFile); err == nil {
		return certFile, keyFile, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return "", "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", "", err
	}
	return certFile, keyFile, errors.Join(
		os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
}

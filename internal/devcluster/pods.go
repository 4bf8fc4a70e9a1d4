package devcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
)

// MaxPods is how many pods there may be.
const MaxPods = 16

// PodsConfig says which pods to start. Count and Command are required.
type PodsConfig struct {
	// Count is how many, from 2 to MaxPods.
	Count int
	// Command returns the command of a relay that serves with the options args
	// of `relay start` and ends, at the latest, when its standard input does.
	// env are further variables of its environment.
	Command func(args, env []string) *exec.Cmd
	// Address is where peers connect, whichever pod they then land on; a
	// loopback address and a port. Empty means any free port of 127.0.0.1.
	Address string
	// Secret is what tokens are signed with; empty means a fresh one.
	Secret string
	// Log gets the log of all pods, each line with its pod before it; nil means
	// nobody.
	Log io.Writer

	oneAddress bool // as where there is only 127.0.0.1
}

// Pods are the pods of one relay, each a process of its own, behind one address.
type Pods struct {
	// Set by StartPods, never changed.
	pods   []*pod
	front  *splitter
	names  *nameServer // nil: the pods were given as a list
	secret string
}

// pod is one of them; it may be killed and started again.
type pod struct {
	// Set by StartPods, never changed.
	name                              string
	peers, links, health, ops, metric string // addresses
	command                           func() *exec.Cmd
	log                               io.Writer // nil: nobody

	mu      sync.Mutex // guards what follows
	process *process   // nil: not started, or killed
}

// StartPods starts the pods and returns when all are ready, which they are when
// they are linked. The caller stops them with [Pods.Shutdown].
func StartPods(ctx context.Context, c PodsConfig) (_ *Pods, err error) {
	if c.Count < 2 || c.Count > MaxPods {
		return nil, fmt.Errorf("start %d pods: want from 2 to %d", c.Count, MaxPods)
	}
	if c.Secret == "" {
		c.Secret = auth.NewSecret()
	}
	ln, err := listenLoopback(ctx, c.Address)
	if err != nil {
		return nil, err
	}
	p := &Pods{secret: c.Secret}
	if p.pods, err = p.plan(c, ln.Addr().String()); err != nil {
		_ = ln.Close() // it was never served
		return nil, err
	}
	p.front = newSplitter(ln, p.pods)
	p.front.spare(p.victim())
	for _, pod := range p.pods { // all at once, as a Deployment does
		if err = pod.start(); err != nil {
			break
		}
	}
	for _, pod := range p.pods {
		if err == nil {
			err = pod.ready(ctx)
		}
	}
	if err != nil {
		now, cancel := context.WithCancel(ctx)
		cancel()
		_ = p.Shutdown(now) // there is a better error
		return nil, err
	}
	return p, nil
}

// plan decides where everything is. The pods have an address each and find each
// other by a name, as in Kubernetes. Where the system has only 127.0.0.1, as
// macOS does, they have ports of their own and a list.
func (p *Pods) plan(c PodsConfig, front string) ([]*pod, error) {
	var hosts []netip.Addr
	for i := range c.Count {
		hosts = append(hosts, netip.AddrFrom4([4]byte{127, 0, 0, byte(i + 1)}))
	}
	many := !c.oneAddress && bindable(hosts)
	if !many {
		for i := range hosts {
			hosts[i] = hosts[0]
		}
	}
	// Peers, links, health, operations, metrics.
	const listeners = 5
	ports, err := freePorts(hosts, listeners, many)
	if err != nil {
		return nil, err
	}
	podSecret := auth.NewSecret()
	var find []string
	if many {
		if p.names, err = startNameServer(hosts); err != nil {
			return nil, fmt.Errorf("start a name server: %w", err)
		}
		find = []string{"--cluster-headless", podsName, "--cluster-dns", p.names.address()}
	}
	var all []*pod
	var list []string
	var share sync.Mutex // of c.Log
	for i, host := range hosts {
		at := func(listener int) string { return netip.AddrPortFrom(host, ports[i][listener]).String() }
		pod := &pod{
			name:  "pod " + strconv.Itoa(i+1),
			peers: at(0), links: at(1), health: at(2), ops: at(3), metric: at(4),
		}
		if c.Log != nil {
			pod.log = &prefixed{mu: &share, w: c.Log, name: pod.name}
		}
		list = append(list, pod.links)
		pod.command = func() *exec.Cmd {
			find := find
			if !many {
				find = []string{"--cluster-peers", strings.Join(list, ",")}
			}
			_, port, _ := net.SplitHostPort(pod.links) // made above
			return c.Command(append([]string{
				"--exposed-address", "rel://" + front, "--listen-address", pod.peers,
				"--health-listen-address", pod.health, "--ops-listen-address", pod.ops, "--metrics-listen-address", pod.metric,
				"--pod-ip", host.String(), "--cluster-port", port,
				"--drain-delay", "0s", "--drain-grace", "1s",
			}, find...), []string{"RELAY_AUTH_SECRET=" + c.Secret, "RELAY_CLUSTER_AUTH_SECRET=" + podSecret})
		}
		all = append(all, pod)
	}
	return all, nil
}

// bindable reports whether this system lets a program listen on all of addrs.
func bindable(addrs []netip.Addr) bool {
	for _, addr := range addrs {
		ln, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
		if err != nil {
			return false
		}
		_ = ln.Close() // it was never served
	}
	return true
}

// freePorts returns n ports for each host that nobody listens on, the same for
// all hosts if so asked. They are below those that systems give to outgoing
// connections; another program may still take one first, and then its pod says
// so.
func freePorts(hosts []netip.Addr, n int, same bool) ([][]uint16, error) {
	const lowest, highest, tries = 20000, 30000, 1000
	ports := make([][]uint16, len(hosts))
	taken := make(map[uint16]bool)
	free := func(port uint16, hosts []netip.Addr) bool {
		for _, host := range hosts {
			ln, err := net.Listen("tcp", netip.AddrPortFrom(host, port).String())
			if err != nil {
				return false
			}
			_ = ln.Close() // it was never served
		}
		return true
	}
	for range tries {
		if len(ports[len(ports)-1]) == n {
			return ports, nil
		}
		port := uint16(lowest + rand.IntN(highest-lowest))
		if taken[port] {
			continue
		}
		taken[port] = true
		if same {
			if free(port, hosts) {
				for i := range ports {
					ports[i] = append(ports[i], port)
				}
			}
			continue
		}
		for i := range ports {
			if len(ports[i]) < n {
				if free(port, hosts[i:i+1]) {
					ports[i] = append(ports[i], port)
				}
				break
			}
		}
	}
	return nil, errors.New("find free ports on loopback: none found")
}

// URL returns the address peers connect to, the same whichever pod they land on.
func (p *Pods) URL() string { return "rel://" + p.front.ln.Addr().String() }

// Secret returns the secret tokens are signed with.
func (p *Pods) Secret() string { return p.secret }

// PodInfo is where a pod can be reached.
type PodInfo struct {
	Name       string
	URL        string // of this pod alone
	Operations string // host:port
}

// Info returns the pods.
func (p *Pods) Info() []PodInfo {
	var all []PodInfo
	for _, pod := range p.pods {
		all = append(all, PodInfo{Name: pod.name, URL: "rel://" + pod.peers, Operations: pod.ops})
	}
	return all
}

// Shutdown ends the pods, at most until ctx ends, and returns when nothing of
// them is left.
func (p *Pods) Shutdown(ctx context.Context) error {
	var stopping sync.WaitGroup
	for _, pod := range p.pods {
		stopping.Go(func() { pod.stop(ctx.Done()) })
	}
	stopping.Wait()
	p.front.close()
	if p.names != nil {
		p.names.close()
	}
	return nil
}

// victim is the pod that KillOne kills; who connects before that is given others.
func (p *Pods) victim() *pod { return p.pods[len(p.pods)-1] }

// Restart starts the pods that have ended again and returns when they are ready.
// From now on nobody kills any, and the one address leads to all of them.
func (p *Pods) Restart(ctx context.Context, report func(Step)) error {
	for _, pod := range p.pods {
		if pod.living() {
			continue
		}
		started := time.Now()
		if err := pod.start(); err != nil {
			return err
		}
		if err := pod.ready(ctx); err != nil {
			return err
		}
		report(Restarted{Pod: pod.name, Took: time.Since(started)})
	}
	p.front.spare(nil)
	return nil
}

// start starts the process of a pod that has none.
func (p *pod) start() error {
	process, err := startProcess(p.command(), p.log)
	if err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.process = process
	return nil
}

// running returns its process; nil: there is none.
func (p *pod) running() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process
}

func (p *pod) living() bool {
	process := p.running()
	return process != nil && process.living()
}

// kill ends it as a crash would, and returns when it has ended.
func (p *pod) kill() {
	if process := p.running(); process != nil {
		process.kill()
	}
}

func (p *pod) stop(patience <-chan struct{}) {
	if process := p.running(); process != nil {
		process.stop(patience)
	}
}

// readyPause is the time between two looks at a pod that is starting.
const readyPause = 10 * time.Millisecond

// ready waits until the pod wants peers.
func (p *pod) ready(ctx context.Context) error {
	process := p.running()
	pause := time.NewTicker(readyPause)
	defer pause.Stop()
	for {
		if err := ask(ctx, "http://"+p.health+"/readyz"); err == nil {
			return nil
		}
		select {
		case <-pause.C:
		case <-process.done:
			return fmt.Errorf("start %s: %w", p.name, process.failure())
		case <-ctx.Done():
			return fmt.Errorf("wait until %s is ready: %w", p.name, ctx.Err())
		}
	}
}

// ask returns nil when url answers that all is well.
func ask(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// peer is a client that knows which pod it is on.
type peer struct {
	*client.Client

	mu   sync.Mutex // guards what follows
	next *pod       // where it connects; nil: whichever lives
	on   *pod       // where it connected last
}

// connect connects a peer to a pod. When that dies it is on its own: it connects
// to any that lives.
func (p *Pods) connect(ctx context.Context, name string, to *pod) (*peer, error) {
	peer := &peer{next: to}
	c, err := client.Dial(ctx, client.Config{
		URL: p.URL(), Name: name, Token: client.SecretToken(p.secret, tokenTTL),
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			pod := peer.turn(p.pods)
			if pod == nil {
				return nil, errors.New("no pod lives")
			}
			return new(net.Dialer).DialContext(ctx, network, pod.peers)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("connect %s to %s: %w", name, to.name, err)
	}
	peer.Client = c
	return peer, nil
}

// turn returns the pod to connect to now.
func (p *peer) turn(pods []*pod) *pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next != nil {
		p.on, p.next = p.next, nil
		return p.on
	}
	first := 1 + slices.Index(pods, p.on)
	for i := range pods {
		if pod := pods[(first+i)%len(pods)]; pod.living() {
			p.on = pod
			return pod
		}
	}
	return nil
}

// pod returns the name of the pod it is on.
func (p *peer) pod() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.on.name
}

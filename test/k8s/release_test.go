package k8s_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// hostAddress is that of this machine as pods see it.
const hostAddress = "10.89.0.1"

// baseValues are what every installation of these tests has: the pods are small,
// and this machine may read their metrics.
const baseValues = `
replicaCount: 3
exposedAddress: rel://relay.example.com:443
networkPolicy:
  monitoring: [{ipBlock: {cidr: ` + hostAddress + `/32}}]
resources:
  requests: {cpu: 10m, memory: 32Mi}
`

func chart() string {
	if dir := os.Getenv("RELAY_CHART"); dir != "" {
		return dir
	}
	return filepath.Join(root, "charts", "relay")
}

// release is an installed chart.
type release struct {
	lab                     *theLab
	namespace, name, values string
	address                 string // of the load balancer
	secret                  string // for tokens
	ca                      string // PEM; empty without TLS
}

// install installs the chart and waits until all pods are ready.
func install(t *testing.T, image loadedImage, args ...string) *release {
	t.Helper()
	return installAs(t, namespace(t), "relay", image, args...)
}

func installAs(t *testing.T, namespace, name string, image loadedImage, args ...string) *release {
	t.Helper()
	r := &release{lab: lab(t), namespace: namespace, name: name, values: filepath.Join(t.TempDir(), "values.yaml")}
	if err := os.WriteFile(r.values, []byte(baseValues), 0o600); err != nil {
		t.Fatal(err)
	}
	r.helm(t, "install", image, args...)
	t.Cleanup(func() {
		_, _ = tryRun("", "helm", "uninstall", name, "-n", namespace, "--ignore-not-found") // the namespace goes too
	})
	r.address = kubectl(t, "-n", namespace, "get", "service", name, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	b, err := base64.StdEncoding.DecodeString(kubectl(t, "-n", namespace, "get", "secret", name+"-auth", "-o", "jsonpath={.data.secrets}"))
	if err != nil {
		t.Fatal(err)
	}
	r.secret, _, _ = strings.Cut(string(b), "\n")
	return r
}

// helm runs helm install or upgrade and waits for it.
func (r *release) helm(t *testing.T, verb string, image loadedImage, args ...string) {
	t.Helper()
	helm(t, append([]string{
		verb, r.name, chart(), "-n", r.namespace, "-f", r.values, "--wait", "--timeout", "120s",
		"--set", "image.repository=" + image.repository + ",image.tag=" + image.tag,
	}, args...)...)
}

func (r *release) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return kubectl(t, append([]string{"-n", r.namespace}, args...)...)
}

// pod is what the tests look at of a pod.
type pod struct {
	Metadata struct {
		Name              string
		UID               string
		DeletionTimestamp string
	}
	Spec   struct{ NodeName string }
	Status struct {
		PodIP             string
		Conditions        []struct{ Type, Status, LastTransitionTime string }
		ContainerStatuses []struct{ RestartCount int }
	}
}

func (p *pod) ready() bool {
	for _, c := range p.Status.Conditions {
		if c.Type == "Ready" {
			return c.Status == "True"
		}
	}
	return false
}

func (p *pod) leaving() bool { return p.Metadata.DeletionTimestamp != "" }

func (r *release) podList(ctx context.Context) ([]pod, error) {
	var list struct{ Items []pod }
	err := r.lab.get(ctx, "/api/v1/namespaces/"+r.namespace+"/pods?labelSelector=app.kubernetes.io/instance%3D"+r.name, &list)
	return list.Items, err
}

// pods returns the pods of the release, those that are ending among them.
func (r *release) pods(t *testing.T) []pod {
	t.Helper()
	pods, err := r.podList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return pods
}

// settle waits until the release consists of n ready pods and nothing else.
func (r *release) settle(t *testing.T, n int) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d pods", n), func() error {
		pods, err := r.podList(t.Context())
		if err != nil {
			return err
		}
		ready := 0
		for _, p := range pods {
			if p.ready() && !p.leaving() {
				ready++
			}
		}
		if ready != n || len(pods) != n {
			return fmt.Errorf("%d pods, %d of them ready and staying", len(pods), ready)
		}
		return nil
	})
}

// figures are the metrics of a pod, by name and labels.
type figures map[string]float64

// sum adds those of a metric whatever its labels are.
func (f figures) sum(metric string) (total float64) {
	for name, v := range f {
		if base, _, _ := strings.Cut(name, "{"); base == metric {
			total += v
		}
	}
	return total
}

var scraper = &http.Client{Timeout: 2 * time.Second}

// scrape reads the metrics of the pod at ip.
func scrape(ctx context.Context, ip string) (figures, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+ip+":9090/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := scraper.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	f := make(figures)
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") || strings.Contains(line, "_bucket{") {
			continue
		}
		if v, err := strconv.ParseFloat(line[at+1:], 64); err == nil {
			f[line[:at]] = v
		}
	}
	return f, nil
}

// mesh returns what is missing of a full mesh of n pods; nil: nothing.
func (r *release) mesh(ctx context.Context, n int) error {
	pods, err := r.podList(ctx)
	if err != nil {
		return err
	}
	if len(pods) != n {
		return fmt.Errorf("%d pods, want %d", len(pods), n)
	}
	for _, p := range pods {
		f, err := scrape(ctx, p.Status.PodIP)
		if err != nil {
			return err
		}
		if links := f["relay_cluster_streams"]; links != float64(n-1) {
			return fmt.Errorf("%s has %v links, want %d", p.Metadata.Name, links, n-1)
		}
	}
	return nil
}

// watch follows the metrics and the logs of all pods that the release has
// meanwhile, those that come and go too.
type watch struct {
	r       *release
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	logs    string
	mu      sync.Mutex // guards what follows
	first   map[string]figures
	last    map[string]figures
	spreads []string // peers of each pod, whenever that changed
}

const scrapeEvery = 200 * time.Millisecond

func (r *release) watch(t *testing.T) *watch {
	ctx, cancel := context.WithCancel(context.Background())
	w := &watch{r: r, cancel: cancel, logs: t.ArtifactDir(), first: map[string]figures{}, last: map[string]figures{}}
	before := make(map[string]bool)
	for _, p := range r.pods(t) {
		before[p.Metadata.Name] = true
	}
	started := make(chan struct{})
	w.tasks.Go(func() {
		tick := time.NewTicker(scrapeEvery)
		defer tick.Stop()
		once := sync.OnceFunc(func() { close(started) })
		for {
			w.look(ctx, before)
			once()
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	<-started
	return w
}

func (w *watch) look(ctx context.Context, before map[string]bool) {
	pods, err := w.r.podList(ctx)
	if err != nil {
		return // the API may be away for a moment
	}
	var each sync.WaitGroup
	spread := make([]string, len(pods))
	for i, p := range pods {
		if p.Status.PodIP == "" {
			continue
		}
		each.Go(func() {
			f, err := scrape(ctx, p.Status.PodIP)
			if err != nil {
				return // not started yet, or stopped
			}
			name := p.Metadata.Name
			spread[i] = fmt.Sprintf("%s:%v", name[strings.LastIndexByte(name, '-')+1:], f.sum("relay_peers"))
			w.mu.Lock()
			defer w.mu.Unlock()
			if w.first[name] == nil {
				w.first[name] = figures{} // a new pod's count from nothing
				if before[name] {
					w.first[name] = f
				}
				w.tasks.Go(func() { w.follow(ctx, name) })
			}
			w.last[name] = f
		})
	}
	each.Wait()
	now := strings.Join(slices.DeleteFunc(spread, func(s string) bool { return s == "" }), " ")
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.spreads); n == 0 || !strings.HasSuffix(w.spreads[n-1], " "+now) {
		w.spreads = append(w.spreads, time.Now().Format("15:04:05.0")+" "+now)
	}
}

// follow writes the log of a pod to a file.
func (w *watch) follow(ctx context.Context, name string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.r.lab.api+"/api/v1/namespaces/"+w.r.namespace+"/pods/"+name+"/log?follow=true", nil)
	if err != nil {
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return // it has gone
	}
	defer resp.Body.Close()
	f, err := os.Create(filepath.Join(w.logs, name+".log"))
	if err != nil {
		return
	}
	defer f.Close()
	_, _ = io.Copy(f, resp.Body) // until the pod or the watch ends
}

// stop ends the watch. It returns by how much the counters have grown, over all
// pods.
func (w *watch) stop() figures {
	w.cancel()
	w.tasks.Wait()
	total := make(figures)
	for pod, last := range w.last {
		for name, v := range last {
			total[name] += v - w.first[pod][name]
		}
	}
	return total
}

// drops says which messages the pods have dropped, and why.
func (f figures) drops() string {
	var all []string
	for name, v := range f {
		if strings.HasPrefix(name, "relay_messages_dropped_total") && v > 0 {
			reason := name
			if _, labels, ok := strings.Cut(name, `reason="`); ok {
				reason, _, _ = strings.Cut(labels, `"`)
			}
			all = append(all, fmt.Sprintf("%s %v", reason, v))
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

package k8s_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/test/k8s/load"
)

// The pairs of peers, through the load balancer from outside the cluster and
// through the Service from inside, and the messages a second each way of each.
const (
	oursOutside, netBirdOutside = 8, 6
	oursInside, netBirdInside   = 4, 2
	rate                        = 100
)

// row is a line of the table of results.
type row struct {
	scenario, peers string
	load.Figures
}

var (
	resultsMu sync.Mutex
	results   []row
)

func record(scenario string, r load.Report) {
	resultsMu.Lock()
	defer resultsMu.Unlock()
	for _, kind := range []string{load.Ours, load.NetBird} {
		if f := r[kind]; f != nil {
			results = append(results, row{scenario, kind, *f})
		}
	}
}

// printResults prints the table, as Markdown.
func printResults() {
	if len(results) == 0 {
		return
	}
	var b strings.Builder
	b.WriteString("\n| scenario | peers | sent | lost | % | reordered | twice | longest gap | moves | most of one | not sent | offline / back |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range results {
		fmt.Fprintf(&b, "| %s | %d of %s | %d | %d | %.3f | %d | %d | %.2f s | %d | %d | %d | %d / %d |\n", r.scenario, r.Peers, r.peers,
			r.Sent, r.Lost, 100*float64(r.Lost)/float64(max(1, r.Sent)), r.Reordered, r.Duplicated, r.Gap.Seconds(), r.Reconnects, r.Most, r.NotSent, r.Offline, r.Online)
	}
	fmt.Println(b.String())
	if file := os.Getenv("K8S_TABLE"); file != "" {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			fmt.Println(err)
		}
	}
}

// url is the address of the relay at host and port, with TLS or without.
func (r *release) url(host string, port int) string {
	scheme := "rel"
	if r.ca != "" {
		scheme = "rels"
	}
	return fmt.Sprintf("%s://%s:%d", scheme, host, port)
}

// netBird is n; 0 with a certificate that NetBird's library has no way to trust.
func (r *release) netBird(n int) int {
	if r.ca != "" {
		return 0
	}
	return n
}

// peers are pairs outside and inside that talk, and the watch of the pods.
type peers struct {
	r       *release
	outside *load.Load
	inside  string // address of the pod
	watch   *watch
}

// talk starts the peers.
func (r *release) talk(t *testing.T) *peers {
	t.Helper()
	p := &peers{r: r}
	name := fmt.Sprintf("load-%d", time.Now().UnixNano()%1e9)
	cfg := load.Config{
		Name: "outside-" + name, URLs: []string{r.url(r.address, 443)}, CA: r.ca, Secret: r.secret,
		Ours: oursOutside, NetBird: r.netBird(netBirdOutside), Rate: rate,
	}
	r.startInside(t, name)
	var err error
	if p.outside, err = load.Start(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the peers inside talk", func() error {
		ip := r.kubectl(t, "get", "pod", name, "-o", "jsonpath={.status.podIP}")
		resp, err := scraper.Get("http://" + ip + ":8080/")
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		p.inside = ip
		return nil
	})
	p.watch = r.watch(t)
	return p
}

// startInside starts a pod with peers that use the Service.
func (r *release) startInside(t *testing.T, name string) {
	t.Helper()
	args, err := json.Marshal([]string{
		"-name", name, "-url", r.url(r.name+"."+r.namespace+".svc.cluster.local", 443), "-ca", r.ca, "-secret", r.secret,
		"-ours", fmt.Sprint(oursInside), "-netbird", fmt.Sprint(r.netBird(netBirdInside)), "-rate", fmt.Sprint(rate),
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  nodeName: node-1 # which no fault of these tests touches
  terminationGracePeriodSeconds: 0
  containers:
  - {name: load, image: "%s", imagePullPolicy: IfNotPresent, args: %s, resources: {requests: {cpu: 10m, memory: 32Mi}}}
`, name, r.lab.load, args), "kubectl", "-n", r.namespace, "apply", "-f", "-")
	t.Cleanup(func() {
		_, _ = tryRun("", "kubectl", "-n", r.namespace, "delete", "pod", name, "--ignore-not-found", "--wait=false") // its namespace goes too
	})
}

// end stops the peers, records what became of their messages and logs the rest.
func (p *peers) end(t *testing.T, scenario string) (load.Report, figures) {
	t.Helper()
	inside := make(chan load.Report, 1)
	go func() {
		report := make(load.Report)
		defer func() { inside <- report }()
		resp, err := (&http.Client{Timeout: time.Minute}).Post("http://"+p.inside+":8080/stop", "", nil)
		if err != nil {
			t.Errorf("figures of the peers inside: %v", err)
			return
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(&report); err != nil {
			t.Errorf("figures of the peers inside: %v", err)
		}
	}()
	report := p.outside.Stop()
	report.Add(<-inside)
	grown := p.watch.stop()
	record(scenario, report)
	for kind, f := range report {
		t.Logf("%s: %d sent, %d lost (%.3f %%, %d of them refused), %d reordered, %d twice, gap %.2f s, %d moves of %d peers, at most %d, %d not sent, %d offline and %d back", kind,
			f.Sent, f.Lost, 100*float64(f.Lost)/float64(max(1, f.Sent)), f.Refused, f.Reordered, f.Duplicated, f.Gap.Seconds(), f.Reconnects, f.Peers, f.Most, f.NotSent, f.Offline, f.Online)
	}
	for _, f := range report {
		for _, l := range f.Losses[:min(40, len(f.Losses))] {
			t.Log("lost: ", l)
		}
		for _, l := range f.Turned[:min(40, len(f.Turned))] {
			t.Logf("reordered: %s, sent %s, came %s", l.Flow, l.First.Format("15:04:05.000"), l.Til.Format("15:04:05.000"))
		}
	}
	t.Logf("dropped by the pods: %s; bounced %v", cmp.Or(grown.drops(), "nothing"), grown["relay_cluster_bounces_received_total"])
	t.Logf("peers of each pod:\n%s", strings.Join(p.watch.spreads, "\n"))
	return report, grown
}

// pause lets the peers talk for a moment.
func pause(d time.Duration) { time.Sleep(d) }

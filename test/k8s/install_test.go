package k8s_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"
)

// nameServer is CoreDNS, which this machine can reach.
const nameServer = "10.96.0.10:53"

// TestInstall installs three replicas: every pod is linked to every other, the
// headless name is that of all pods, and peers that come through the load balancer
// are on all pods and talk.
func TestInstall(t *testing.T) {
	image := lab(t).image
	from := time.Now()
	r := install(t, image)
	t.Logf("helm install --wait returned after %.1f s", time.Since(from).Seconds())
	eventually(t, "full mesh", func() error { return r.mesh(t.Context(), 3) })
	t.Logf("every pod was linked to every other after %.1f s", time.Since(from).Seconds())

	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, nameServer)
	}}
	var want []string
	for _, p := range r.pods(t) {
		want = append(want, p.Status.PodIP)
	}
	slices.Sort(want)
	eventually(t, "headless name", func() error {
		got, err := resolver.LookupHost(t.Context(), r.name+"-pods."+r.namespace+".svc.cluster.local.")
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			return fmt.Errorf("got %v, %w, want %v", got, err, want)
		}
		return nil
	})

	p := r.talk(t)
	nodes := make(map[string]bool)
	for _, pod := range r.pods(t) {
		f, err := scrape(t.Context(), pod.Status.PodIP)
		if err != nil {
			t.Fatal(err)
		}
		n := f.sum("relay_peers")
		t.Logf("%s on %s has %v peers", pod.Metadata.Name, pod.Spec.NodeName, n)
		if nodes[pod.Spec.NodeName] {
			t.Errorf("%s has two pods", pod.Spec.NodeName)
		}
		nodes[pod.Spec.NodeName] = true
		if n == 0 {
			t.Errorf("%s has no peers", pod.Metadata.Name)
		}
	}
	pause(steady)
	report, _ := p.end(t, "1. three replicas, nothing happens")
	nothingLost(t, report)
	t.Log(helm(t, "test", r.name, "-n", r.namespace))
}

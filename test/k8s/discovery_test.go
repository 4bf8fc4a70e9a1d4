package k8s_test

import (
	"fmt"
	"testing"
	"time"
)

// TestDiscovery measures how long a new pod takes from its first answer to its links
// and to being ready, found by EndpointSlices and by DNS, which CoreDNS caches for 30 s.
func TestDiscovery(t *testing.T) {
	for _, tt := range []struct{ by, rbac string }{{"EndpointSlices", "true"}, {"DNS", "false"}} {
		t.Run(tt.by, func(t *testing.T) {
			r := install(t, lab(t).image, "--set", "rbac.create="+tt.rbac)
			eventually(t, "full mesh", func() error { return r.mesh(t.Context(), 3) })
			old := make(map[string]bool)
			for _, p := range r.pods(t) {
				old[p.Metadata.Name] = true
			}
			r.kubectl(t, "scale", "deployment/"+r.name, "--replicas=4")
			var answered time.Time
			eventually(t, "the new pod is linked", func() error {
				for _, p := range r.pods(t) {
					if old[p.Metadata.Name] || p.Status.PodIP == "" {
						continue
					}
					f, err := scrape(t.Context(), p.Status.PodIP)
					if err != nil {
						return err
					}
					if answered.IsZero() {
						answered = time.Now()
					}
					if links := f["relay_cluster_streams"]; links < 3 {
						return fmt.Errorf("%v links", links)
					}
					return nil
				}
				return fmt.Errorf("no new pod")
			})
			linked := time.Since(answered)
			r.settle(t, 4)
			t.Logf("a new pod was linked to all others %.1f s after its first answer, and ready after %.1f s", linked.Seconds(), time.Since(answered).Seconds())
			from := time.Now()
			r.restart(t)
			t.Logf("a rollout of 4 pods took %.1f s", time.Since(from).Seconds())
			r.settle(t, 4)
		})
	}
}

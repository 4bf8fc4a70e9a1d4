package k8s_test

import (
	"strings"
	"testing"

	"github.com/crosspod/crosspod/test/k8s/load"
)

// TestUpgrade goes from the previous version to this one and back under load, turns
// much on and off again, and leaves nothing behind. A rollout of the previous version
// is what TestRollout compares with.
func TestUpgrade(t *testing.T) {
	l := lab(t)
	r := install(t, l.previousRelay(t))
	step := func(scenario string, do func(), check func(*testing.T, load.Report)) {
		t.Run(scenario, func(t *testing.T) {
			p := r.talk(t)
			pause(steady)
			do()
			r.settle(t, 3)
			pause(steady)
			report, _ := p.end(t, scenario)
			check(t, report)
		})
	}
	old := func(*testing.T, load.Report) {} // the previous version loses what it loses
	step("2. rollout restart of the previous version", func() { r.restart(t) }, old)
	step("7a. helm upgrade from the previous version", func() { r.helm(t, "upgrade", l.image) }, old)
	step("7b. much turned on and off again", func() {
		r.helm(t, "upgrade", l.image, "--set", "autoscaling.enabled=true,autoscaling.minReplicas=3,autoscaling.maxReplicas=4,"+
			"ingress.enabled=true,metrics.dashboards.enabled=true,settings.log-level=debug,podDisruptionBudget.enabled=false")
		r.helm(t, "upgrade", l.image)
	}, nothingLost)
	// A load balancer may lead connections another way, which cuts them.
	step("7c. externalTrafficPolicy Local and back", func() {
		r.helm(t, "upgrade", l.image, "--set", "service.externalTrafficPolicy=Local")
		r.helm(t, "upgrade", l.image)
	}, old)
	step("7d. helm rollback to the previous version", func() {
		helm(t, "rollback", r.name, "1", "-n", r.namespace, "--wait", "--timeout", "120s")
	}, nothingLost)
	helm(t, "uninstall", r.name, "-n", r.namespace, "--wait", "--timeout", "120s")
	r.settle(t, 0)
	left := r.kubectl(t, "get", "deployments,replicasets,pods,services,endpointslices,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers,ingresses,leases",
		"-o", "name", "--ignore-not-found")
	for name := range strings.Lines(left) {
		if strings.Contains(name, r.name) && !strings.Contains(name, "pod/load-") {
			t.Errorf("helm uninstall left %s", name)
		}
	}
}

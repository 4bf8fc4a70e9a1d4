package k8s_test

import (
	"strings"
	"testing"
)

// TestUpgrade goes from the previous version to this one and back under load, turns
// much on and off again, and leaves nothing behind.
func TestUpgrade(t *testing.T) {
	l := lab(t)
	r := install(t, l.previousRelay(t))
	step := func(scenario string, do func()) {
		t.Run(scenario, func(t *testing.T) {
			p := r.talk(t)
			pause(steady)
			do()
			r.settle(t, 3)
			pause(steady)
			p.end(t, scenario)
		})
	}
	step("7a. helm upgrade from the previous version", func() { r.helm(t, "upgrade", l.image) })
	step("7b. much turned on and off again", func() {
		r.helm(t, "upgrade", l.image, "--set", "autoscaling.enabled=true,autoscaling.minReplicas=3,autoscaling.maxReplicas=4,"+
			"ingress.enabled=true,metrics.dashboards.enabled=true,settings.log-level=debug,service.externalTrafficPolicy=Local,podDisruptionBudget.enabled=false")
		r.helm(t, "upgrade", l.image)
	})
	step("7c. helm rollback to the previous version", func() {
		helm(t, "rollback", r.name, "1", "-n", r.namespace, "--wait", "--timeout", "120s")
	})
	helm(t, "uninstall", r.name, "-n", r.namespace, "--wait", "--timeout", "120s")
	left := r.kubectl(t, "get", "deployments,replicasets,pods,services,endpointslices,secrets,configmaps,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers,ingresses,leases",
		"-o", "name", "--ignore-not-found")
	for name := range strings.Lines(left) {
		if strings.Contains(name, r.name) && !strings.Contains(name, "pod/load-") {
			t.Errorf("helm uninstall left %s", name)
		}
	}
}

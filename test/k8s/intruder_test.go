package k8s_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// podManifest runs a relay that wants to link to a pod of another release.
const podManifest = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  containers:
  - name: relay
    image: "%s"
    imagePullPolicy: IfNotPresent
    args: [start, --listen-address=:8443, --exposed-address=%s, --auth-secret=%s, --cluster-peers=%s, --cluster-auth-secret=%s]
    env: [{name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
    securityContext: {runAsUser: 65532, runAsNonRoot: true}
    resources: {requests: {cpu: 10m, memory: 32Mi}}
`

// intrude starts such a pod in a namespace of its own.
func (r *release) intrude(t *testing.T, exposed, authSecret, clusterSecret string) (ns, ip string) {
	t.Helper()
	ns = namespace(t)
	target := r.pods(t)[0].Status.PodIP
	run(t, fmt.Sprintf(podManifest, "intruder", r.lab.image, exposed, authSecret, target, clusterSecret), "kubectl", "-n", ns, "apply", "-f", "-")
	kubectl(t, "-n", ns, "wait", "pod/intruder", "--for=jsonpath={.status.phase}=Running", "--timeout=60s")
	return ns, kubectl(t, "-n", ns, "get", "pod", "intruder", "-o", "jsonpath={.status.podIP}")
}

// linkOf returns what the intruder says of its links.
func linkOf(t *testing.T, ns string) (state, reason string) {
	t.Helper()
	out, _ := tryRun("", "kubectl", "-n", ns, "exec", "intruder", "--", "/relay", "cluster", "status", "--json") // it exits with 1
	var status struct {
		Pods []struct{ State, Reason string }
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil || len(status.Pods) == 0 {
		return "", fmt.Sprintf("%v: %s", err, out)
	}
	return status.Pods[0].State, status.Pods[0].Reason
}

const wrongSecret = "wrongwrongwrongwrongwrongwrongwrongwrong"

// TestIntruders lets pods that do not belong to the release try its cluster port:
// the NetworkPolicy keeps them out, and without it HELLO does and counts them.
func TestIntruders(t *testing.T) {
	r := install(t, lab(t).image)
	eventually(t, "full mesh", func() error { return r.mesh(t.Context(), 3) })
	cluster := r.secretOf(t, "cluster")
	for _, tt := range []struct {
		name, exposed, auth, cluster string
		policy                       bool
		state, reason                string
	}{
		{"policy, right secrets", "rel://relay.example.com:443", r.secret, cluster, true, "unreachable", "timeout"},
		{"no policy, wrong cluster secret", "rel://relay.example.com:443", r.secret, wrongSecret, false, "refused", "hmac_mismatch"},
		{"no policy, no cluster secret", "rel://relay.example.com:443", r.secret, "", false, "refused", "signed_but_unsupported"},
		{"no policy, another release", "rel://other.example.com:443", "anotherSecretOfTokens", cluster, false, "refused", "instance_mismatch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r.helm(t, "upgrade", r.lab.image, "--set", fmt.Sprintf("networkPolicy.enabled=%v", tt.policy))
			rejects := r.total(t, "relay_cluster_hello_rejects_total")
			ns, _ := r.intrude(t, tt.exposed, tt.auth, tt.cluster)
			eventually(t, "the intruder knows", func() error {
				if state, reason := linkOf(t, ns); state != tt.state || reason != tt.reason {
					return fmt.Errorf("link %s, %s, want %s, %s", state, reason, tt.state, tt.reason)
				}
				return nil
			})
			got := r.total(t, "relay_cluster_hello_rejects_total") - rejects
			t.Logf("%v rejects counted", got)
			if tt.policy != (got == 0) {
				t.Errorf("%v rejects counted", got)
			}
			if err := r.mesh(t.Context(), 3); err != nil {
				t.Error(err)
			}
		})
	}
	// The address of another release is in this one's headless name for 10 s.
	t.Run("foreign address in the headless name", func(t *testing.T) {
		r.helm(t, "upgrade", r.lab.image, "--set", "networkPolicy.enabled=false")
		_, ip := r.intrude(t, "rel://other.example.com:443", "anotherSecretOfTokens", wrongSecret)
		p := r.talk(t)
		pause(steady)
		run(t, fmt.Sprintf(`
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: foreign
  labels: {kubernetes.io/service-name: %s-pods, endpointslice.kubernetes.io/managed-by: test}
addressType: IPv4
ports: [{name: cluster, port: 7090, protocol: TCP}]
endpoints: [{addresses: ["%s"], conditions: {ready: true}}]
`, r.name, ip), "kubectl", "-n", r.namespace, "apply", "-f", "-")
		pause(10 * time.Second)
		r.kubectl(t, "delete", "endpointslice", "foreign")
		pause(steady)
		report, grown := p.end(t, "5. foreign address in the headless name, 10 s")
		nothingLost(t, report)
		t.Logf("%v rejects counted", grown.sum("relay_cluster_hello_rejects_total"))
		if err := r.mesh(t.Context(), 3); err != nil {
			t.Error(err)
		}
	})
}

// TestWrongSecretStopsRollout gives the Deployment a cluster secret that the
// running pods do not have: the rollout stops, and peers stay on pods that talk.
func TestWrongSecretStopsRollout(t *testing.T) {
	r := install(t, lab(t).image)
	eventually(t, "full mesh", func() error { return r.mesh(t.Context(), 3) })
	p := r.talk(t)
	pause(steady)
	r.kubectl(t, "create", "secret", "generic", "wrong", "--from-literal=secrets="+wrongSecret)
	r.kubectl(t, "patch", "deployment", r.name, "--type=json", "-p", `[{"op":"replace","path":"/spec/template/spec/volumes/1/secret/secretName","value":"wrong"}]`)
	if out, err := tryRun("", "kubectl", "-n", r.namespace, "rollout", "status", "deployment/"+r.name, "--timeout=20s"); err == nil {
		t.Errorf("the rollout went through: %s", out)
	}
	for _, pod := range r.pods(t) {
		f, err := scrape(t.Context(), pod.Status.PodIP)
		if err != nil {
			t.Fatal(err)
		}
		if n := f.sum("relay_peers"); !pod.ready() && n > 0 {
			t.Errorf("%s is not ready and has %v peers", pod.Metadata.Name, n)
		}
	}
	r.kubectl(t, "rollout", "undo", "deployment/"+r.name)
	r.settle(t, 3)
	report, _ := p.end(t, "12. wrong cluster secret in the Deployment, undone after 20 s")
	nothingLost(t, report)
}

package k8s_test

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const (
	kubeconform = "github.com/yannh/kubeconform/cmd/kubeconform@v0.7.0"
	tokens      = "a secret of the tests for tokens"
	// ofOthers are kinds that the cluster of these tests does not know.
	ofOthers = "Certificate,HTTPRoute,TLSRoute,ServiceMonitor,PrometheusRule"
)

// rendered returns what helm template prints: it sees no cluster.
func rendered(t *testing.T, namespace string, args ...string) string {
	t.Helper()
	return helm(t, append([]string{"template", "relay", chart(), "-n", namespace, "--kube-version", "1.34.0", "--no-hooks"}, args...)...)
}

// TestManifests checks what the chart renders for each file of values of the
// package chart against the schemas of Kubernetes, and has the API server judge it.
func TestManifests(t *testing.T) {
	l := lab(t)
	ns := namespace(t)
	dir, schemas := t.TempDir(), t.TempDir()
	run(t, "", "bash", "-c", `"$("$0/build")/labctl" schemas -swagger "$(cd "$0" && go list -m -f '{{.Dir}}' k8s.io/kubernetes)/api/openapi-spec/swagger.json" -o "$1"`, l.tools, schemas)
	run(t, "", "env", "GOBIN="+dir, "go", "install", kubeconform)
	known := regexp.MustCompile(`(?m)^kind: (` + strings.ReplaceAll(ofOthers, ",", "|") + `)$`)
	files, _ := filepath.Glob("chart/testdata/*.yaml")
	if len(files) < 5 {
		t.Fatalf("found %d files of values", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text := rendered(t, ns, "-f", file)
			t.Log(run(t, text, filepath.Join(dir, "kubeconform"), "-strict", "-summary", "-skip", ofOthers, "-schema-location", schemas+"/{{.ResourceKind}}{{.KindSuffix}}.json", "-"))
			own := slices.DeleteFunc(strings.Split(text, "\n---\n"), known.MatchString)
			run(t, strings.Join(own, "\n---\n"), "kubectl", "apply", "-n", ns, "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
		})
	}
}

// TestGitOps renders and applies the chart again and again, as Argo CD does:
// nothing changes, and peers do not notice.
func TestGitOps(t *testing.T) {
	l := lab(t)
	r := &release{lab: l, namespace: namespace(t), name: "relay", secret: tokens}
	r.kubectl(t, "create", "secret", "generic", "tokens", "--from-literal=secrets="+tokens)
	r.kubectl(t, "create", "secret", "generic", "pods", "--from-literal=secrets="+tokens+" between pods")
	apply := func() (changed string) {
		text := rendered(t, r.namespace, "--set", "replicaCount=3,exposedAddress=rel://relay.example.com:443,auth.existingSecret=tokens,cluster.existingSecret=pods,"+
			"resources.requests.cpu=10m,image.repository="+l.image.repository+",image.tag="+l.image.tag,
			"--set-json", `networkPolicy.monitoring=[{"ipBlock":{"cidr":"`+hostAddress+`/32"}}]`)
		run(t, text, "kubectl", "apply", "-n", r.namespace, "--server-side", "--field-manager=gitops", "-f", "-")
		return r.kubectl(t, "get", "deployments,services,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets", "-l", "app.kubernetes.io/instance=relay",
			"-o", `jsonpath={range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}`)
	}
	apply()
	r.settle(t, 3)
	r.address = r.kubectl(t, "get", "service", r.name, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}")
	before := r.pods(t)
	p := r.talk(t)
	first := apply()
	for range 4 {
		if now := apply(); now != first {
			t.Errorf("objects changed, from\n%s\nto\n%s", first, now)
		}
	}
	pause(steady)
	report, _ := p.end(t, "9. template and apply, five times")
	for kind, f := range report {
		if f.Lost > 0 || f.Reconnects > 0 {
			t.Errorf("%s: %d messages lost, %d moves", kind, f.Lost, f.Reconnects)
		}
	}
	names := func(pods []pod) (all []string) {
		for _, p := range pods {
			all = append(all, p.Metadata.Name)
		}
		slices.Sort(all)
		return all
	}
	if now := r.pods(t); !slices.Equal(names(now), names(before)) {
		t.Errorf("the pods are %v, were %v", names(now), names(before))
	}
	if left := r.kubectl(t, "get", "secrets", "-o", "name"); strings.Contains(left, "relay") {
		t.Errorf("the chart made secrets where it could not look for old ones: %s", left)
	}
}

package k8s_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/prometheus"
	"github.com/crosspod/crosspod/test/k8s/load"
)

var fence = regexp.MustCompile("(?ms)^```(sh|yaml)\n(.*?)^```$")

// blocks returns the code below a heading of docs/kubernetes.md, in order.
func blocks(t *testing.T, heading string) (all []string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(root, "docs", "kubernetes.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(string(page), "\n"+heading+"\n")
	for _, m := range fence.FindAllStringSubmatch(below, -1) {
		all = append(all, m[2])
	}
	if len(all) == 0 {
		t.Fatalf("docs/kubernetes.md has no code below %q", heading)
	}
	return all
}

// TestDocs does what docs/kubernetes.md says below "Without Helm", as it is:
// its commands, its manifests, its check. Then peers talk.
func TestDocs(t *testing.T) {
	ns := namespace(t)
	code := blocks(t, "## Without Helm")
	if len(code) != 3 {
		t.Fatalf("%d pieces of code, want secrets, manifests and check", len(code))
	}
	secrets, manifests, check := code[0], code[1], code[2]

	// Where a reader types: the namespace is chosen, relay is installed, and the
	// certificate is there.
	cert, _ := certificate(t, 1)
	dir := filepath.Dir(cert)
	config := filepath.Join(dir, "kubeconfig")
	if err := os.WriteFile(config, []byte(kubectl(t, "config", "view", "--raw", "--minify")), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "--kubeconfig", config, "config", "set-context", "--current", "--namespace", ns)
	build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(dir, "relay"), "./cmd/relay")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	image := regexp.MustCompile(`image: (\S+)`).FindStringSubmatch(manifests)[1]
	run(t, "", filepath.Join(lab(t).tools, "load-image"), image, "-entrypoint", "/relay", filepath.Join(dir, "relay")+":/relay")
	shell := func(stdin, script string) string {
		t.Helper()
		cmd := exec.Command("bash", "-euc", script)
		cmd.Dir, cmd.Stdin = dir, strings.NewReader(stdin)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+config, "PATH="+dir+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		t.Logf("$ %s%s", script, out)
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}

	shell("", secrets)
	shell(manifests, "kubectl apply -f -\n")
	eventually(t, "the check", func() error { // the pods are linked some time after they are ready
		cmd := exec.Command("bash", "-euc", check)
		cmd.Env = append(os.Environ(), "KUBECONFIG="+config)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Count(string(out), " up ") != 2 {
			return fmt.Errorf("%w\n%s", err, out)
		}
		t.Logf("$ %s%s", check, out)
		return nil
	})

	r := &release{lab: lab(t), namespace: ns, name: "relay"}
	ca, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	l, err := load.Start(t.Context(), load.Config{
		Name: "docs", URLs: []string{"rels://" + r.kubectl(t, "get", "service", "relay", "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}") + ":443"},
		CA: string(ca), Secret: r.secretOf(t, "auth"), Ours: 8, Rate: rate,
	})
	if err != nil {
		t.Fatal(err)
	}
	pause(steady)
	report := l.Stop()
	record("11. manifests of docs/kubernetes.md", report)
	nothingLost(t, report)
}

// TestMonitoring scrapes the pods: every query of the dashboards and every alert has
// data.
func TestMonitoring(t *testing.T) {
	prometheus.Need(t, "prometheus")
	ns := namespace(t)
	cert, key := certificate(t, 30)
	kubectl(t, "-n", ns, "create", "secret", "tls", "relay-tls", "--cert="+cert, "--key="+key)
	r := installAs(t, ns, "relay", lab(t).image, "--set", "tls.existingSecret=relay-tls,exposedAddress=rels://relay.example.com:443")
	ca, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	r.ca = string(ca)
	p := r.talk(t)

	// Debian's Prometheus cannot ask Kubernetes, so it gets what it would find there.
	var targets []string
	for _, pod := range r.pods(t) {
		targets = append(targets, fmt.Sprintf(`{targets: ["%s:9090"], labels: {namespace: %s, pod: %s}}`, pod.Status.PodIP, ns, pod.Metadata.Name))
	}
	server := prometheus.Start(t, root, "[{job_name: relay-pods, static_configs: ["+strings.Join(targets, ", ")+"]}]")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	trust := &tls.Config{RootCAs: roots, ServerName: load.ServerName}
	prometheus.Guests(t, func(i int) client.Config {
		return client.Config{Name: fmt.Sprint("guest", i), URL: r.url(r.address, 443), Token: client.SecretToken(r.secret, time.Hour), TLSConfig: trust}
	})
	eventually(t, "all pods are scraped", func() error {
		_, err := server.Query(t, "count(relay_build_info) == 3")
		return err
	})
	queries, alerts := server.Check(t)
	t.Logf("%d queries and %d alerts have data", queries, alerts)
	for name, state := range server.Alerts(t) {
		if state == "firing" {
			t.Errorf("alert %s is firing", name)
		}
	}
	p.end(t, "8. scraped by Prometheus")
}

// Package chart tests charts/relay without a cluster: what it renders, what it
// refuses, and that its README says what its values are.
package chart

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

const (
	root  = "../../.."
	chart = root + "/charts/relay"
	// helmModule is built when there is no helm on the PATH.
	helmModule = "helm.sh/helm/v3/cmd/helm@v3.22.0"
)

var update = flag.Bool("update", false, "write testdata/*.golden and the table in the chart's README anew")

// helmPath is the path of the helm command.
var helmPath string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		path, err := exec.LookPath("helm")
		if err != nil {
			dir, err := os.MkdirTemp("", "helm")
			if err != nil {
				panic(err)
			}
			defer os.RemoveAll(dir)
			build := exec.Command("go", "install", helmModule)
			build.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=-mod=mod")
			if out, err := build.CombinedOutput(); err != nil {
				panic(string(out))
			}
			path = filepath.Join(dir, "helm")
		}
		helmPath = path
		return m.Run()
	}())
}

// helm runs helm without a cluster and returns what it printed.
func helm(args ...string) (stdout, stderr string, err error) {
	cmd := exec.Command(helmPath, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG=/dev/null")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

func template(args ...string) (stdout, stderr string, err error) {
	return helm(append([]string{"template", "relay", chart, "--namespace", "crosspod", kubeVersion}, args...)...)
}

// kubeVersion is what helm is to assume: one that was not built by its own makefile
// assumes an old one.
const kubeVersion = "--kube-version=1.34.0"

// secrets are what a rendering without a cluster needs.
var secrets = []string{"--set", "exposedAddress=relay.example.com:443,auth.existingSecret=a,cluster.existingSecret=c"}

// Each file of values in testdata renders as its golden file, twice.
func TestSnapshots(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.yaml")
	if len(files) < 5 {
		t.Fatalf("found %d files of values", len(files))
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			got, stderr, err := template("-f", file)
			if err != nil {
				t.Fatal(stderr)
			}
			if again, _, _ := template("-f", file); again != got {
				t.Error("two renderings differ")
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if want := read(t, golden); got != want {
				t.Errorf("%s differs; go test ./chart -run TestSnapshots -update writes it anew\n%s", golden, difference(want, got))
			}
			checkObjects(t, got)
		})
	}
}

// checkObjects checks what holds for every rendering.
func checkObjects(t *testing.T, text string) {
	t.Helper()
	if bad := regexp.MustCompile(`(?m)^.*(: null$|[0-9]e\+[0-9]|<no value>).*$`).FindString(text); bad != "" {
		t.Errorf("rendered %q", bad)
	}
	for _, o := range objects(t, text) {
		if o.Kind == "" || o.Metadata.Name == "" {
			t.Errorf("an object has no kind or no name: %+v", o)
		}
		if o.Kind != "Deployment" {
			continue
		}
		selector := o.Spec.Selector.MatchLabels
		if len(selector) != 2 || selector["app.kubernetes.io/instance"] != "relay" {
			t.Errorf("the selector is %v: want the name and the release, nothing that changes", selector)
		}
		for k, v := range selector {
			if o.Spec.Template.Metadata.Labels[k] != v {
				t.Errorf("the pods have %s=%q, the selector %q", k, o.Spec.Template.Metadata.Labels[k], v)
			}
		}
	}
}

// object is what the tests look at of a rendered object.
type object struct {
	Kind     string
	Metadata struct{ Name string }
	Spec     struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Template struct {
			Metadata struct{ Labels map[string]string }
		}
	}
}

func objects(t *testing.T, text string) (all []object) {
	t.Helper()
	for part := range strings.SplitSeq(text, "\n---\n") {
		// Kinds differ in what a selector is.
		if !strings.Contains(part, "kind:") {
			continue
		}
		var o object
		if err := yaml.Unmarshal([]byte(part), &o); err != nil && strings.Contains(part, "kind: Deployment") {
			t.Errorf("%v in\n%s", err, part)
		}
		all = append(all, o)
	}
	return all
}

// difference returns the first lines that differ.
func difference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return "want " + w[i] + "\ngot  " + g[i]
		}
	}
	return "one is longer"
}

func TestRefusals(t *testing.T) {
	tests := []struct {
		name string
		set  string // beside secrets
		want string
	}{
		{"no address", "exposedAddress=", "exposedAddress is missing: want the address at which peers reach this relay"},
		{"address of another kind", "exposedAddress=https://relay.example.com", "want a host and a port, such as relay.example.com:443"},
		{"secret that cannot be looked up", "auth.existingSecret=", "set auth.existingSecret to a Secret of yours, or auth.secrets"},
		{"cluster secret that cannot be looked up", "replicaCount=2,cluster.existingSecret=", "set cluster.existingSecret to a Secret of yours, or cluster.secrets"},
		{"two kinds of secrets", "auth.secrets={0123456789abcdef}", "auth.secrets and auth.existingSecret are both set"},
		{"short secret", "auth.existingSecret=,auth.secrets={short}", "auth.secrets has a secret of 5 characters: want at least 16"},
		{"short cluster secret", "cluster.existingSecret=,cluster.secrets={0123456789abcdef}", "cluster.secrets has a secret of 16 characters: want at least 32"},
		{"pods apart", "replicaCount=2,cluster.enabled=false", "peers on different pods could not reach each other"},
		{"two certificates", "tls.existingSecret=t,tls.certManager.enabled=true", "tls.existingSecret and tls.certManager.enabled are both set"},
		{"no issuer", "tls.certManager.enabled=true", "tls.certManager.issuerRef.name is missing"},
		{"proxy without a scheme", "ingress.enabled=true", "write rels:// before it"},
		{"passed through without a certificate", "tlsRoute.enabled=true,tlsRoute.parentRefs[0].name=g", "they have no certificate"},
		{"route without a gateway", "httpRoute.enabled=true,exposedAddress=rels://relay.example.com", "httpRoute.parentRefs is empty"},
		{"fewer than the least", "autoscaling.enabled=true,autoscaling.maxReplicas=1", "autoscaling.minReplicas is 2, above maxReplicas"},
		{"nothing to scale by", "autoscaling.enabled=true,autoscaling.targetCPUUtilizationPercentage=null", "neither targetCPUUtilizationPercentage nor metric"},
		{"percentage of nothing", "autoscaling.enabled=true,resources.requests.cpu=null", "resources.requests.cpu, which is not set"},
		// The schema's own sentences name the value.
		{"unknown value", "replicas=3", "replicas"},
		{"unknown value below", "service.annotation.a=b", "annotation"},
		{"unknown setting", "settings.max-peer=3", "max-peer"},
		{"setting that is the chart's", "settings.listen-address=:1", "listen-address"},
		{"text for a number", "replicaCount=many", "replicaCount"},
		{"number below the least", "replicaCount=-1", "replicaCount"},
		{"budget that blocks", "podDisruptionBudget.maxUnavailable=0", "maxUnavailable"},
		{"budget that blocks, percentage", "podDisruptionBudget.maxUnavailable=0%", "maxUnavailable"},
		{"type of the Service", "service.type=Loadbalancer", "'LoadBalancer'"},
		{"time without a unit", "settings.stall-timeout=10", "stall-timeout"},
		{"metric without a value", "autoscaling.metric.name=relay_peers", "averageValue"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if out, stderr, err := template(append(slices.Clone(secrets), "--set", tt.set)...); err == nil || !strings.Contains(stderr, tt.want) {
				t.Errorf("error %q, rendered %d bytes; want an error with %q", stderr, len(out), tt.want)
			}
		})
	}
}

func TestLint(t *testing.T) {
	if out, stderr, err := helm("lint", "--strict", chart, kubeVersion, "--set", "exposedAddress=relay.example.com:443"); err != nil {
		t.Error(out, stderr)
	}
}

// The schema knows every option of the relay that the chart does not set by itself.
func TestSettings(t *testing.T) {
	var schema struct {
		Properties struct {
			Settings struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal([]byte(read(t, chart+"/values.schema.json")), &schema); err != nil {
		t.Fatal(err)
	}
	known := schema.Properties.Settings.Properties
	own := regexp.MustCompile(`^(listen-address|exposed-address|auth-secret.*|tls-.*|letsencrypt-.*|cluster-(headless|endpoints|peers|port|listen-address|auth-secret.*)|pod-ip|metrics-.*|health-listen-address|drain-.*|log-file|log-max-size-mb|log-disable-rotation|.*stun.*)$`)
	page := read(t, root+"/docs/operations.md")
	options := regexp.MustCompile("(?m)^\\| `--([a-z0-9-]+)`(?:, `-.`)? \\|").FindAllStringSubmatch(page[strings.Index(page, "## Settings"):strings.Index(page, "## Several pods")], -1)
	if len(options) < 40 {
		t.Fatalf("found %d options in operations.md", len(options))
	}
	for _, m := range options {
		if _, ok := known[m[1]]; ok == own.MatchString(m[1]) {
			t.Errorf("option %s: in the schema %v, set by the chart %v", m[1], ok, !ok)
		}
		delete(known, m[1])
	}
	for name := range known {
		t.Errorf("the schema has %s, which is no option", name)
	}
}

// Dashboards and alerts reach the cluster as they are in the chart's files.
func TestMonitoring(t *testing.T) {
	got, stderr, err := template(append(slices.Clone(secrets), "--set", "metrics.prometheusRule.enabled=true,metrics.dashboards.enabled=true,metrics.dashboards.labels.a=b")...)
	if err != nil {
		t.Fatal(stderr)
	}
	rendered := make(map[string]any) // by kind and name
	for part := range strings.SplitSeq(got, "\n---\n") {
		var o struct {
			Kind     string
			Metadata struct{ Name string }
			Spec     any
			Data     map[string]string
		}
		if err := yaml.Unmarshal([]byte(part), &o); err != nil {
			t.Fatalf("%v in\n%s", err, part)
		}
		rendered[o.Kind+" "+o.Metadata.Name] = o.Spec
		for name, text := range o.Data {
			rendered["file "+name] = text
		}
	}
	var rules any
	if err := yaml.Unmarshal([]byte(read(t, chart+"/files/alerts.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(rendered["PrometheusRule relay"], rules) {
		t.Errorf("the PrometheusRule is %v, want %v", rendered["PrometheusRule relay"], rules)
	}
	dashboards, _ := filepath.Glob(chart + "/files/dashboards/*.json")
	if len(dashboards) == 0 {
		t.Error("the chart has no dashboards")
	}
	for _, path := range dashboards {
		if name := filepath.Base(path); rendered["file "+name] != strings.TrimRight(read(t, path), "\n") {
			t.Errorf("the dashboard %s is another in its ConfigMap", name)
		}
	}
}

var tableMarks = regexp.MustCompile(`(?s)(<!-- values -->\n).*(<!-- end of values -->\n)`)

// The table of values in the README is that of values.yaml, where each value is
// explained.
func TestReadme(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(read(t, chart+"/values.yaml")), &doc); err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	table.WriteString("| value | default | what it is |\n|---|---|---|\n")
	writeValues(t, &table, "", doc.Content[0])
	page := read(t, chart+"/README.md")
	want := tableMarks.ReplaceAllString(page, "${1}"+strings.ReplaceAll(table.String(), "$", "$$")+"${2}")
	if *update {
		if err := os.WriteFile(chart+"/README.md", []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if page != want {
		t.Errorf("the table in README.md is old; go test ./chart -run TestReadme -update writes it anew\n%s", difference(want, page))
	}
}

func writeValues(t *testing.T, w *strings.Builder, prefix string, values *yaml.Node) {
	for i := 0; i < len(values.Content); i += 2 {
		key, value := values.Content[i], values.Content[i+1]
		name := prefix + key.Value
		about := strings.Join(strings.Fields(strings.ReplaceAll(key.HeadComment, "#", "")), " ")
		if about == "" && !explained(value) {
			t.Errorf("values.yaml does not explain %s", name)
		}
		if explained(value) {
			if about != "" {
				w.WriteString("| **" + name + "** | | " + about + " |\n")
			}
			writeValues(t, w, name+".", value)
			continue
		}
		var v any
		if err := value.Decode(&v); err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		w.WriteString("| `" + name + "` | `" + string(text) + "` | " + strings.ReplaceAll(about, "|", `\|`) + " |\n")
	}
}

// explained reports whether there are comments within value.
func explained(value *yaml.Node) bool {
	return value.Kind == yaml.MappingNode && slices.ContainsFunc(value.Content, func(n *yaml.Node) bool {
		return n.HeadComment != "" || explained(n)
	})
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

//go:build e2e

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/flow"
	"github.com/crosspod/crosspod/internal/test/prometheus"
	"github.com/crosspod/crosspod/internal/test/testcert"
)

// Every query of the dashboards and the alerts has data while three pods carry
// messages, and no alert fires.
func TestDashboards(t *testing.T) {
	prometheus.Need(t, "prometheus")
	cert := testcert.New(t, "relay.test")
	dir := t.TempDir()
	certFile, keyFile := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	crt, key := cert.PEM(t)
	for file, text := range map[string][]byte{certFile: crt, keyFile: key} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := pods(t, 3, "--exposed-address", "rels://relay.test:443", "--tls-cert-file", certFile, "--tls-key-file", keyFile)
	var targets []string
	for i, p := range all {
		targets = append(targets, fmt.Sprintf(`{targets: [%q], labels: {namespace: test, pod: relay-%d}}`, p.metrics, i))
	}
	server := prometheus.Start(t, "../..", "[{job_name: relay, static_configs: ["+strings.Join(targets, ", ")+"]}]")

	at := func(pod int, name string) client.Config {
		cfg := peer("rels://"+all[pod%3].peers, name)
		cfg.TLSConfig = &tls.Config{RootCAs: cert.Roots, ServerName: "relay.test"}
		return cfg
	}
	for i := range all {
		flow.Between(t, connect(t, at(i, fmt.Sprint("from", i))), connect(t, at(i+1, fmt.Sprint("to", i))))
	}
	prometheus.Guests(t, func(i int) client.Config { return at(i, fmt.Sprint("guest", i)) })
	flow.Eventually(t, "all pods are scraped", func() error {
		_, err := server.Query(t, "count(relay_build_info) == 3")
		return err
	})
	queries, alerts := server.Check(t)
	if queries < 60 || alerts < 15 {
		t.Errorf("looked at %d queries and %d alerts, want all", queries, alerts)
	}
	for name, state := range server.Alerts(t) {
		if state == "firing" {
			t.Errorf("alert %s is %s", name, state)
		}
	}
}

// Each alert fires when it should and not when it should not: twice the same
// series, with other values. promtool evaluates them once a minute and is asked
// after 20 minutes, unless at says otherwise.
func TestAlerts(t *testing.T) {
	promtool := prometheus.Need(t, "promtool")
	rules, err := filepath.Abs("../../charts/relay/files/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", rules).CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}

	const (
		never  = "0x120"
		grows  = "0+6x120" // a tenth of a message per second
		much   = "0+600x120"
		little = "0+1x120"
		bucket = `_bucket{job="relay",le=`
	)
	slow := func(name string) []string {
		return []string{name + bucket + `"0.1"}`, name + bucket + `"0.5"}`, name + bucket + `"+Inf"}`}
	}
	three := []string{`relay_cluster_streams{job="relay",pod="a"}`, `relay_cluster_streams{job="relay",pod="b"}`, `relay_cluster_streams{job="relay",pod="c"}`}
	counter := func(name, label, value string) []string {
		return []string{name + `{job="relay",` + label + `="` + value + `"}`}
	}
	tests := []struct {
		alert        string
		series       []string
		fires, quiet []string
		interval, at string
	}{
		{alert: "RelayPodWithoutLinks", series: three, fires: []string{"1x120", "1x120", never}, quiet: []string{"1x120", "1x120", "2x120"}},
		{alert: "RelayPodWithoutLinks", series: three[:1], fires: nil, quiet: []string{never}}, // the only pod
		{alert: "RelayMeshIncomplete", series: three, fires: []string{"1x120", "2x120", "1x120"}, quiet: []string{"2x120", "2x120", "2x120"}},
		{alert: "RelayMeshIncomplete", series: three, quiet: []string{"2x120", "2x120", "2x16 1x2 2x30"}}, // for a moment
		{alert: "RelayDropsBetweenPods", series: counter("relay_messages_dropped_total", "reason", "no_link"), fires: []string{much}, quiet: []string{grows}},
		{alert: "RelayDropsBetweenPods", series: counter("relay_messages_dropped_total", "reason", "no_peer"), quiet: []string{much}},
		{alert: "RelayQueuesFull", series: []string{`relay_messages_dropped_total{job="relay",reason="queue_full"}`, `relay_messages_received_total{job="relay"}`},
			fires: []string{grows, "0+300x120"}, quiet: []string{grows, "0+60000x120"}},
		{alert: "RelayMemoryLimit", series: counter("relay_messages_dropped_total", "reason", "memory_limit"), fires: []string{grows}, quiet: []string{"5x120"}},
		{alert: "RelayQueueDelay", series: slow("relay_queue_delay_seconds"), fires: []string{never, much, much}, quiet: []string{much, much, much}},
		{alert: "RelayLookupsSlow", series: slow("relay_cluster_lookup_duration_seconds"), fires: []string{never, much, much}, quiet: []string{much, much, much}},
		{alert: "RelayLinksSlow", series: slow("relay_cluster_link_round_trip_seconds"), fires: []string{never, much, much}, quiet: []string{much, much, much}},
		{alert: "RelaySecretRefused", series: counter("relay_cluster_hello_rejects_total", "reason", "hmac_mismatch"), fires: []string{little}, quiet: []string{"3x120"}},
		{alert: "RelaySecretRefused", series: counter("relay_cluster_hello_rejects_total", "reason", "closed"), quiet: []string{little}},
		{alert: "RelayPodsOfAnother", series: counter("relay_cluster_hello_rejects_total", "reason", "instance_mismatch"), fires: []string{little}, quiet: []string{"0x17 1x30"}},
		{alert: "RelaySettingsDiffer", series: []string{`relay_cluster_instance_mismatch{job="relay"}`, `relay_cluster_tokens_mismatch{job="relay"}`},
			interval: "1m", at: "90m", fires: []string{never, "1x120"}, quiet: []string{never, "0x60 1x60"}},
		{alert: "RelayTokensRefused", series: counter("relay_handshakes_total", "outcome", "bad_auth"), fires: []string{much}, quiet: []string{grows}},
		{alert: "RelayStrangers", series: counter("relay_handshakes_total", "outcome", "timeout"), fires: []string{"0+900x120"}, quiet: []string{"0+300x120"}},
		{alert: "RelayFull", series: counter("relay_handshakes_total", "outcome", "limit"), fires: []string{little}, quiet: []string{"7x120"}},
		{alert: "RelayDescriptorsShort", series: []string{`process_open_fds{job="relay",instance="a"}`, `process_max_fds{job="relay",instance="a"}`, `relay_build_info{job="relay",instance="a"}`},
			fires: []string{"700x120", "1024x120", "1x120"}, quiet: []string{"500x120", "1024x120", "1x120"}},
		{alert: "RelayDescriptorsShort", series: []string{`process_open_fds{job="other",instance="a"}`, `process_max_fds{job="other",instance="a"}`}, // not a relay
			quiet: []string{"700x120", "1024x120"}},
		// promtool's clock begins in 1970: 20 minutes are 1,200 s.
		{alert: "RelayCertificateExpires", series: []string{`relay_certificate_expiry_timestamp_seconds{job="relay"}`}, fires: []string{"600000x120"}, quiet: []string{"700000x120"}},
		{alert: "RelayCertificateExpires", series: []string{`relay_certificate_expiry_timestamp_seconds{job="relay"}`}, fires: []string{"60x120"}, quiet: []string{never}}, // over; no TLS
		{alert: "RelayKeyOnTwoMachines", series: []string{`relay_peers_flapping_total{job="relay"}`}, fires: []string{little}, quiet: []string{"7x120"}},
		{alert: "RelayLogLinesLost", series: counter("relay_log_lines_lost_total", "reason", "queue_full"), fires: []string{"0x15 1x30"}, quiet: []string{"7x120"}},
		// A pod is to have cut its peers at 180 s, and has gone by then.
		{alert: "RelayDrainExceeded", series: []string{`relay_peers{job="relay",pod="a",transport="ws"}`, `relay_drain_deadline_timestamp_seconds{job="relay",pod="a"}`},
			interval: "15s", at: "4m", fires: []string{"3x11 stale", "0x9 180 180 stale"}, quiet: []string{"3x10 0 stale", "0x9 180 180 stale"}},
		{alert: "RelayDrainExceeded", series: []string{`relay_peers{job="relay",pod="a",transport="ws"}`, `relay_drain_deadline_timestamp_seconds{job="relay",pod="a"}`},
			interval: "15s", at: "4m", quiet: []string{"3x40", "0x40"}}, // it is not stopping
		{alert: "RelayFault", series: []string{`relay_cluster_digest_mismatches_total{job="relay"}`, `relay_cluster_directory_faults_total{job="relay"}`},
			fires: []string{never, "0x15 1x30"}, quiet: []string{"1x120", "1x120"}},
	}
	type series struct {
		Series string `json:"series"`
		Values string `json:"values"`
	}
	var groups []any
	fired, kept := make(map[string]bool), make(map[string]bool)
	for i, tt := range tests {
		for want, values := range [][]string{tt.quiet, tt.fires} {
			if values == nil {
				continue
			}
			(map[int]map[string]bool{0: kept, 1: fired})[want][tt.alert] = true
			var input []series
			for i, s := range tt.series {
				input = append(input, series{s, values[i]})
			}
			group := map[string]any{
				"name": fmt.Sprintf("case %d, %s, firing %d", i, tt.alert, want), "interval": "1m", "input_series": input,
				"promql_expr_test": []any{map[string]any{
					"expr":        fmt.Sprintf(`(count(ALERTS{alertname=%q,alertstate="firing"}) > bool 0) or vector(0)`, tt.alert),
					"eval_time":   "20m",
					"exp_samples": []any{map[string]any{"labels": "{}", "value": want}},
				}},
			}
			if tt.interval != "" {
				group["interval"] = tt.interval
				group["promql_expr_test"].([]any)[0].(map[string]any)["eval_time"] = tt.at
			}
			groups = append(groups, group)
		}
	}
	text, err := json.Marshal(map[string]any{"rule_files": []string{rules}, "evaluation_interval": "1m", "tests": groups})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "alerts.yaml") // JSON is YAML
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("promtool test rules: %v\n%s", err, out)
	}

	yaml, err := os.ReadFile(rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllSubmatch(yaml, -1) {
		if name := string(m[1]); !fired[name] || !kept[name] {
			t.Errorf("alert %s lacks a case that fires or one that does not", name)
		}
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestMain lets the test program be the copier that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "copier" {
		_ = copier() // ends with its parent
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestRun measures each load once, briefly, with real processes: every figure is
// there, nothing that must arrive is lost, and the table names every row.
func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("starts processes")
	}
	dir := t.TempDir()
	relay, file := filepath.Join(dir, "relay"), filepath.Join(dir, "figures.json")
	if out, err := exec.Command("go", "build", "-o", relay, "../relay").CombinedOutput(); err != nil {
		t.Fatalf("build the relay: %v\n%s", err, out)
	}
	var table, progress bytes.Buffer
	err := run(t.Context(), []string{"--relay", relay, "--json", file, "--baseline", "--rounds", "1", "--payloads", "100",
		"--duration", "100ms", "--warm-up", "50ms", "--stall", "200ms", "--settle", "50ms",
		"--peers", "20", "--connects", "20", "--at-once", "5", "--pods", "2", "--moves", "1"}, &table, &progress)
	if err != nil {
		t.Fatalf("%v\n%s%s", err, &progress, &table)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, o := range r.Rows {
		seen[o.Section+"/"+o.Load] = true
		if !bytes.Contains(table.Bytes(), []byte(o.Target)) || len(o.Figures) == 0 {
			t.Errorf("row %+v has no figures, or is not in the table", o)
		}
		if lost := o.rounds("lost"); o.Load != "stall" && len(lost) > 0 && o.Section != "pods" && lost[0] != 0 {
			t.Errorf("%s/%s of %s %s: lost %v", o.Section, o.Load, o.Target, o.Label, lost[0])
		}
		if cpu := o.rounds("CPU µs"); len(cpu) > 0 && cpu[0] <= 0 {
			t.Errorf("%s/%s of %s: no CPU time", o.Section, o.Load, o.Target)
		}
	}
	all := &bench{payloads: []int{100}}
	for _, s := range all.sections() {
		for _, l := range s.loads {
			if !seen[s.name+"/"+l.name] {
				t.Errorf("%s/%s was not measured", s.name, l.name)
			}
		}
	}
}

func TestCommand(t *testing.T) {
	words := map[string]string{"{addr}": "h:1", "{url}": "rel://h:1"}
	const template = "x --tls {cert} -k {key} --listen {addr} --url={url} on"
	for _, want := range []string{"x --listen h:1 --url=rel://h:1 on", "x --tls c -k k --listen h:1 --url=rel://h:1 on"} {
		cmd, err := command(template, words)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, a := range cmd.Args {
			got += " " + a
		}
		if got[1:] != want {
			t.Errorf("command is %q, want %q", got[1:], want)
		}
		words["{cert}"], words["{key}"] = "c", "k"
	}
}

func TestWanted(t *testing.T) {
	for _, tt := range []struct {
		only, section, load string
		want                bool
	}{
		{"", "ring", "100 B", true},
		{"ring", "ring", "100 B", true},
		{"memory", "memory TLS", "idle", true},
		{"latency,pods/moves", "pods", "idle", false},
		{"latency,pods/moves", "pods", "moves old open", true},
		{"pods/idle", "pods", "idle", true},
		{"pods", "ring", "100 B", false},
	} {
		if got := (&bench{only: tt.only}).wanted(tt.section, tt.load); got != tt.want {
			t.Errorf("--only %q: %s/%s wanted is %v", tt.only, tt.section, tt.load, got)
		}
	}
}

func TestQuantile(t *testing.T) {
	all := times{4000, 1000, 3000, 2000}
	for q, want := range map[float64]float64{0.5: 2, 0.75: 3, 0.99: 4, 1: 4, 0: 1} {
		if got := all.quantile(q); got != want {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if times(nil).quantile(0.5) != 0 {
		t.Error("a quantile of nothing is not 0")
	}
}

package main

import (
	"bytes"
	"flag"
	"slices"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/bench"
	"github.com/crosspod/crosspod/internal/pod"
)

// TestBenchServerCommand checks that `relay start` takes what bench starts it
// with, and that the environment of bench does not reach it.
func TestBenchServerCommand(t *testing.T) {
	t.Setenv("NB_TLS_CERT_FILE", "/nowhere")
	for _, test := range []struct {
		name   string
		config bench.ServerConfig
	}{
		{"plain", bench.ServerConfig{Address: "127.0.0.1:5", Secret: "s,1"}},
		{"TLS", bench.ServerConfig{Address: "127.0.0.1:5", Secret: "s,1", CertFile: "cert.pem", KeyFile: "key.pem"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			cmd, err := ownServer("/bin/relay")(test.config)
			if err != nil {
				t.Fatal(err)
			}
			if len(cmd.Args) < 2 || cmd.Args[1] != "start" {
				t.Fatalf("command is %q, want relay start …", cmd.Args)
			}
			cfg, settings := pod.NewSettings()
			flags := flag.NewFlagSet("start", flag.ContinueOnError)
			for _, st := range settings.All() {
				flags.Var(st, st.Name, st.Usage)
			}
			if err := flags.Parse(cmd.Args[2:]); err != nil || flags.NArg() > 0 {
				t.Fatalf("relay start does not take %q: %v, left %q", cmd.Args[2:], err, flags.Args())
			}
			if err := cfg.Validate(); err != nil {
				t.Errorf("relay start refuses %q: %v", cmd.Args[2:], err)
			}
			got := bench.ServerConfig{Address: cfg.ListenAddress, Secret: cfg.AuthSecret, CertFile: cfg.TLSCertFile, KeyFile: cfg.TLSKeyFile}
			if got != test.config {
				t.Errorf("it starts %+v, want %+v", got, test.config)
			}
			if slices.ContainsFunc(cmd.Env, func(v string) bool { return strings.HasPrefix(v, "NB_") }) {
				t.Errorf("the environment of the server holds one of its settings: %q", cmd.Env)
			}
		})
	}
}

func TestProgressOffTerminal(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out)
	for _, line := range []string{"latency", "latency, idle: round 1 of 5", "latency, idle: round 2 of 5", "stall", "stall: everyone reads"} {
		p.line(line)
	}
	p.end()
	var got []string
	for line := range strings.Lines(out.String()) {
		got = append(got, strings.Fields(line)[2])
	}
	if want := []string{"latency", "stall"}; !slices.Equal(got, want) {
		t.Errorf("sections told: %q, want %q", got, want)
	}
}

// Package prometheus runs a Prometheus on loopback in tests, and puts the
// dashboards and alerts of the chart to it.
package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/test/flow"
	"github.com/crosspod/crosspod/internal/test/podproc"
)

// Need returns the path of a program of Prometheus. Without it the test is skipped,
// except in CI.
func Need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil && os.Getenv("CI") == "" {
		t.Skipf("%v: it is in Debian's package prometheus", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Server is a Prometheus that runs until the end of the test.
type Server struct {
	url   string
	files string // the folder of dashboards and alerts
}

// Start starts a Prometheus that evaluates the chart's alerts. root is the folder of
// the repository, scrape the list of Prometheus's scrape_configs, in YAML of one line.
func Start(t *testing.T, root, scrape string) *Server {
	t.Helper()
	files, err := filepath.Abs(filepath.Join(root, "charts", "relay", "files"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yaml")
	text := fmt.Sprintf("global: {scrape_interval: 5s, evaluation_interval: 5s}\nrule_files: [%q]\nscrape_configs: %s\n", filepath.Join(files, "alerts.yaml"), scrape)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := podproc.Start(t, exec.Command(Need(t, "prometheus"),
		"--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address=127.0.0.1:0"))
	address := podproc.Field(t, p.Err.Line(t, `msg="Listening on"`), "address")
	p.Err.Line(t, "Server is ready")
	return &Server{url: "http://" + address, files: files}
}

// get asks the API and puts the data of its answer into data.
func (s *Server) get(t *testing.T, path string, data any) error {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  json.RawMessage
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return fmt.Errorf("%s: %w", resp.Status, err)
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	return json.Unmarshal(answer.Data, data)
}

// Query returns what expr is now, one value for each series. A value that is no
// number is an error, and so is no value.
func (s *Server) Query(t *testing.T, expr string) (values []float64, err error) {
	t.Helper()
	var data struct {
		Result []struct{ Value [2]any }
	}
	if err := s.get(t, "/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, err
	}
	for _, r := range data.Result {
		v, err := strconv.ParseFloat(r.Value[1].(string), 64)
		if err != nil || math.IsNaN(v) {
			return nil, fmt.Errorf("%s is %v", expr, r.Value[1])
		}
		values = append(values, v)
	}
	if values == nil {
		return nil, fmt.Errorf("%s has no data", expr)
	}
	return values, nil
}

// data waits until expr has data, and logs it.
func (s *Server) data(t *testing.T, what, expr string) {
	t.Helper()
	flow.Eventually(t, what, func() error {
		values, err := s.Query(t, expr)
		if err == nil {
			t.Logf("%s\n\t%s\n\t= %.4g", what, expr, values)
		}
		return err
	})
}

// dashboard is what is looked at of Grafana's format.
type dashboard struct {
	Title      string
	Templating struct {
		List []struct {
			Name  string
			Query any
		}
	}
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

var (
	// What Grafana fills in: all of everything, and some scrapes.
	fill        = strings.NewReplacer("$namespace", ".*", "$job", ".*", "$pod", ".*", "$__rate_interval", "1m")
	labelValues = regexp.MustCompile(`^label_values\((.+), \w+\)$`)
	selector    = regexp.MustCompile(`\b(relay|process)_\w+(\{[^}]*\})?`)
)

// Check waits until every query of the dashboards has data, and every selector of
// the alerts; no alert may be faulty. It returns how many queries and alerts it saw.
func (s *Server) Check(t *testing.T) (queries, alerts int) {
	t.Helper()
	boards, err := filepath.Glob(filepath.Join(s.files, "dashboards", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range boards {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var d dashboard
		if err := json.Unmarshal(text, &d); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for _, v := range d.Templating.List {
			if q, ok := v.Query.(map[string]any); ok {
				m := labelValues.FindStringSubmatch(q["query"].(string))
				if m == nil {
					t.Errorf("%s: variable %s is %v", d.Title, v.Name, q)
					continue
				}
				s.data(t, d.Title+": variable "+v.Name, fill.Replace(m[1]))
				queries++
			}
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				s.data(t, d.Title+": "+p.Title, fill.Replace(target.Expr))
				queries++
			}
		}
	}
	for _, r := range s.rules(t) {
		alerts++
		for _, sel := range selector.FindAllString(r.Query, -1) {
			s.data(t, "alert "+r.Name, "count("+sel+")")
		}
	}
	flow.Eventually(t, "every alert is evaluated", func() error {
		for _, r := range s.rules(t) {
			if r.Health != "ok" {
				return fmt.Errorf("alert %s is %s: %s", r.Name, r.Health, r.LastError)
			}
		}
		return nil
	})
	return queries, alerts
}

// Guests makes peers come and go until the test ends, with the settings at(i) for
// the i-th, and sends to each that has gone: the quantiles of a histogram that does
// not move are no numbers.
func Guests(t *testing.T, at func(i int) client.Config) {
	t.Helper()
	host, err := client.Dial(t.Context(), at(0))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var guests sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		guests.Wait()
		_ = host.Close() // returns nil
	})
	guests.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for i := 1; ; i++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			guest, err := client.Dial(ctx, at(i))
			if err != nil {
				continue // the queries find out
			}
			_ = guest.Close()                                                               // returns nil
			_, _ = host.PacketConn().WriteTo([]byte("hello?"), client.Addr(guest.PeerID())) // a lookup
		}
	})
}

// Alerts returns the names of the alerts, with their states: inactive, pending or
// firing.
func (s *Server) Alerts(t *testing.T) map[string]string {
	t.Helper()
	states := make(map[string]string)
	for _, r := range s.rules(t) {
		states[r.Name] = r.State
	}
	return states
}

type rule struct{ Name, Query, State, Health, LastError string }

func (s *Server) rules(t *testing.T) (all []rule) {
	t.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	if err := s.get(t, "/api/v1/rules", &data); err != nil {
		t.Fatal(err)
	}
	for _, g := range data.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

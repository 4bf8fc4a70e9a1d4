// Package docs has tests that compare the documents with the code.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/internal/drop"
	"github.com/crosspod/crosspod/relay/listener"
)

const root = ".."

var link = regexp.MustCompile(`\]\(([^)]+)\)`)

// Every link to a file of the repository leads to one.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		text := read(t, page)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, _, _ := strings.Cut(m[1], "#")
			if target == "" || strings.Contains(target, "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), target)); err != nil {
				t.Errorf("%s: link to %s: %v", page, m[1], err)
			}
		}
	}
}

var (
	// A link of the README to a method: [`relay.(*Peer).route`](relay/peer.go)
	method = regexp.MustCompile("\\[`\\w+\\.(?:\\(\\*?(\\w+)\\)|(\\w+))\\.(\\w+)`\\]\\(([^)]+)\\)")
	fences = regexp.MustCompile("(?s)```.*?```")
)

// Every method the README walks through is in the file it links to.
func TestFollowOneMessage(t *testing.T) {
	text := fences.ReplaceAllString(read(t, filepath.Join(root, "README.md")), "")
	steps := method.FindAllStringSubmatch(text, -1)
	if len(steps) < 6 {
		t.Fatalf("found %d linked methods, want those of the whole path", len(steps))
	}
	for _, m := range steps {
		typeName, name, file := m[1]+m[2], m[3], m[4]
		src := read(t, filepath.Join(root, file))
		asMethod := regexp.MustCompile(`func \(\w+ \*?` + typeName + `\) ` + name + `\(`)
		inInterface := regexp.MustCompile(`(?s)type ` + typeName + ` interface \{.*\n\t` + name + `\(`)
		if !asMethod.MatchString(src) && !inInterface.MatchString(src) {
			t.Errorf("%s has no %s of %s", file, name, typeName)
		}
	}
}

var metricName = regexp.MustCompile(`\brelay_\w+[a-z]\b`)

// The operators' page lists every metric and every value of the two labels that
// say what went wrong.
func TestMetrics(t *testing.T) {
	page := read(t, "operations.md")
	want := metricName.FindAllString(read(t, filepath.Join(root, "metrics", "metrics.go")), -1)
	if len(want) < 15 {
		t.Fatalf("found %d names of metrics, want all", len(want))
	}
	for _, name := range want {
		if !strings.Contains(page, "`"+name) {
			t.Errorf("operations.md does not list %s", name)
		}
	}
	values := make([]string, 0, 16)
	for _, o := range listener.Outcomes() {
		values = append(values, string(o))
	}
	for r := drop.None + 1; r < drop.Reasons; r++ {
		values = append(values, r.String())
	}
	for _, v := range values {
		if !strings.Contains(page, "| `"+v+"` |") {
			t.Errorf("operations.md does not explain %s", v)
		}
	}
}

var (
	alertName = regexp.MustCompile(`- alert: (\w+)`)
	runbook   = regexp.MustCompile(`runbook_url: https://github.com/crosspod/crosspod/blob/main/docs/operations.md#(\w+)`)
	scraped   = regexp.MustCompile(`\brelay_[a-z_]+[a-z]\b`)
)

// Every alert has its section in the operators' page, and everything that alerts and
// dashboards look at is in the page's lists.
func TestAlerts(t *testing.T) {
	page := read(t, "operations.md")
	files := filepath.Join(root, "charts", "relay", "files")
	alerts := read(t, filepath.Join(files, "alerts.yaml"))
	names, books := alertName.FindAllStringSubmatch(alerts, -1), runbook.FindAllStringSubmatch(alerts, -1)
	if len(names) < 15 || len(names) != len(books) {
		t.Fatalf("found %d alerts with %d runbooks, want all", len(names), len(books))
	}
	for i, m := range names {
		if !strings.Contains(page, "\n### "+m[1]+"\n") || books[i][1] != strings.ToLower(m[1]) {
			t.Errorf("alert %s has no section in operations.md, or its runbook is #%s", m[1], books[i][1])
		}
	}
	text := alerts + read(t, filepath.Join(files, "dashboards", "overview.json")) + read(t, filepath.Join(files, "dashboards", "cluster.json"))
	for _, name := range scraped.FindAllString(text, -1) {
		name = strings.TrimSuffix(name, "_bucket")
		if !strings.Contains(page, "`"+name) {
			t.Errorf("operations.md does not list %s", name)
		}
	}
}

// pages returns the documents of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && path != root && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if err == nil && filepath.Ext(path) == ".md" {
			all = append(all, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Package imports holds the direction of imports: which package may use which.
package imports

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/crosspod/crosspod"

// allowed says, for each package and what lies below it, what it may import of
// this module. The longest path applies. Tests are free.
var allowed = map[string][]string{
	"messages": {},
	"internal": {"internal"},
	// The process of a relay, and what runs pods for a newcomer.
	"internal/pod":        {"internal", "admin", "auth", "cluster", "relay", "relay/listener"},
	"internal/devcluster": {"internal", "admin", "auth", "client", "messages", "relay"},
	"internal/test":       {"."},

	"metrics":        {"internal"},
	"auth":           {"messages", "internal"},
	"store":          {"messages", "internal"},
	"cluster":        {"messages", "internal", "cluster/internal"},
	"relay/listener": {"internal", "relay/listener"},
	"relay":          {"messages", "internal", "store", "metrics", "cluster", "relay/listener"},
	"client":         {"messages", "internal", "auth"},
	"admin":          {"internal"},
	"cmd":            {"."},

	// Rooms of the cluster that decide and neither wait nor send.
	"cluster/internal/wire":      {"messages"},
	"cluster/internal/mesh":      {"messages", "cluster/internal/wire"},
	"cluster/internal/routes":    {"messages", "cluster/internal/wire", "internal/budget"},
	"cluster/internal/directory": {"messages", "cluster/internal/wire", "internal/fifo"},
	// Its other rooms: the transport knows discovery and the node, and they do not
	// know it.
	"cluster/internal/nolink":    {"cluster/internal/directory", "cluster/internal/handshake", "cluster/internal/link"},
	"cluster/internal/status":    {"cluster/internal/handshake", "cluster/internal/nolink"},
	"cluster/internal/metrics":   {"internal", "cluster/internal/handshake", "cluster/internal/nolink"},
	"cluster/internal/discovery": {"cluster/internal/handshake", "cluster/internal/nolink", "cluster/internal/status", "cluster/internal/wire"},
	"cluster/internal/node":      {"messages", "internal", "cluster/internal/directory", "cluster/internal/metrics", "cluster/internal/wire"},

	"docs": {},
	"test": {"."},
}

// elsewhere says where packages of other modules may be used at all.
var elsewhere = map[string][]string{
	"github.com/spf13": {"cmd"}, // options are read there only
	"k8s.io":           {},      // 25 MB in the binary of each that embeds the relay, see ADR-0038
}

// bare may import the standard library only.
var bare = []string{"messages", "store", "internal/netbatch", "internal/sockopt", "internal/budget"}

func TestImports(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, module+"/...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		pkg := strings.TrimPrefix(fields[0], module+"/")
		rule, known := "", false
		for prefix := range allowed {
			if below(pkg, prefix) && len(prefix) > len(rule) {
				rule, known = prefix, true
			}
		}
		if !known {
			t.Errorf("%s has no rule in this test and in CONTRIBUTING.md", pkg)
		}
		for _, imported := range fields[1:] {
			seen++
			ours, is := strings.CutPrefix(imported, module+"/")
			switch external := strings.Contains(strings.Split(imported, "/")[0], "."); {
			case is && !underAny(ours, allowed[rule]) && !underAny(ours, []string{rule}):
				t.Errorf("%s imports %s, of this module it may import only %q", pkg, ours, allowed[rule])
			case !is && external && slices.Contains(bare, pkg):
				t.Errorf("%s imports %s, it may import only the standard library", pkg, imported)
			}
			if strings.HasPrefix(ours, "internal/test/") && is && !underAny(pkg, []string{"internal/test"}) {
				t.Errorf("%s imports %s, which is for tests", pkg, ours)
			}
			for prefix, where := range elsewhere {
				if below(imported, prefix) && !underAny(pkg, where) {
					t.Errorf("%s imports %s, which only %q may", pkg, imported, where)
				}
			}
		}
	}
	if seen < 100 {
		t.Errorf("go list named %d imports: too few to be all", seen)
	}
}

func below(path, root string) bool {
	return root == "." || path == root || strings.HasPrefix(path, root+"/")
}

func underAny(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool { return below(path, root) })
}

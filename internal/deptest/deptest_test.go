package deptest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestImports(t *testing.T) {
	OnlyOurs(t)
	StdOnly(t)
}

// write lays out a module with the given files and returns its root.
func write(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		name = filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

var sample = map[string]string{
	"go.mod": "// A comment.\nmodule example.org/m\n\ngo 1.26\n",

	"top/top.go":            "package top\n\nimport (\n\t_ \"fmt\"\n\n\t_ \"example.org/m/mid\"\n)\n",
	"top/top_test.go":       "package top\n\nimport _ \"example.org/m/bottomless\"\n",
	"top/gen.go":            "//go:build ignore\n\npackage main\n\nimport _ \"example.org/m/bottomless\"\n",
	"mid/mid.go":            "package mid\n\nimport _ \"example.org/m/bottom/deep\"\n",
	"mid/mid_plan9.go":      "//go:build plan9\n\npackage mid\n\nimport _ \"other.org/plan9\"\n",
	"bottom/deep/deep.go":   "package deep\n\nimport _ \"example.org/m/mid/loop\"\n",
	"mid/loop/loop.go":      "package loop\n\nimport _ \"example.org/m/bottom/deep\"\n",
	"bottomless/less.go":    "package bottomless\n",
	"missing/missing.go":    "package missing\n\nimport _ \"example.org/m/nowhere\"\n",
	"broken/broken.go":      "package broken\n\nimport fmt\n",
	"empty/only_a_test.txt": "",
}

func TestNever(t *testing.T) {
	root := write(t, sample)
	tests := []struct {
		name, dir string
		forbidden []string
		want      string // part of the one finding; "" means none
		wantErr   bool
	}{
		{name: "nothing forbidden", dir: "top"},
		{name: "direct", dir: "top", forbidden: []string{"example.org/m/mid"}, want: "m/top -> example.org/m/mid"},
		{name: "through another", dir: "top", forbidden: []string{"example.org/m/bottom/deep"}, want: "m/top -> example.org/m/mid -> example.org/m/bottom/deep"},
		{name: "below", dir: "top", forbidden: []string{"example.org/m/bottom"}, want: "m/bottom/deep"},
		{name: "trailing slash", dir: "top", forbidden: []string{"example.org/m/bottom/"}, want: "m/bottom/deep"},
		{name: "second of two", dir: "top", forbidden: []string{"net/http", "example.org/m/bottom"}, want: "m/bottom/deep"},
		{name: "standard library", dir: "top", forbidden: []string{"fmt"}, want: "fmt"},
		{name: "other module on another system", dir: "top", forbidden: []string{"other.org"}, want: "other.org/plan9"},
		{name: "test files and ignored files do not count", dir: "top", forbidden: []string{"example.org/m/bottomless"}},
		{name: "same beginning is not below", dir: "top", forbidden: []string{"example.org/m/bott"}},
		{name: "itself", dir: "top", forbidden: []string{"example.org/m/top"}},
		{name: "missing package", dir: "missing", forbidden: []string{"fmt"}, wantErr: true},
		{name: "broken package", dir: "broken", forbidden: []string{"fmt"}, wantErr: true},
		{name: "no package", dir: "empty", forbidden: []string{"fmt"}, wantErr: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, err := never(filepath.Join(root, tt.dir), tt.forbidden)
			if (err != nil) != tt.wantErr {
				t.Fatalf("never: %v, want an error: %t", err, tt.wantErr)
			}
			check(t, found, tt.want)
		})
	}
}

func TestOnlyOurs(t *testing.T) {
	root := write(t, sample)
	tests := []struct {
		name, dir string
		allowed   []string
		want      string
	}{
		{name: "allowed", dir: "top", allowed: []string{"example.org/m/mid"}},
		{name: "allowed by what is above", dir: "mid", allowed: []string{"example.org/m/bottom"}},
		{name: "others do not matter", dir: "bottomless"},
		{name: "not allowed", dir: "top", want: "imports example.org/m/mid"},
		{name: "another allowed", dir: "top", allowed: []string{"example.org/m/mid/loop"}, want: "imports example.org/m/mid"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			found, err := onlyOurs(filepath.Join(root, tt.dir), tt.allowed)
			if err != nil {
				t.Fatal(err)
			}
			check(t, found, tt.want)
		})
	}
}

func TestStdOnly(t *testing.T) {
	root := write(t, map[string]string{
		"go.mod":     "module dotless\n",
		"std/a.go":   "package std\n\nimport _ \"net/http\"\n",
		"ours/a.go":  "package ours\n\nimport _ \"dotless/std\"\n",
		"third/a.go": "package third\n\nimport _ \"example.org/x\"\n",
	})
	for dir, want := range map[string]string{"std": "", "ours": "dotless/std", "third": "example.org/x"} {
		found, err := stdOnly(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		check(t, found, want)
	}
}

func check(t *testing.T, found []string, want string) {
	t.Helper()
	switch {
	case want == "" && len(found) > 0:
		t.Errorf("found %q, want nothing", found)
	case want != "" && (len(found) != 1 || !strings.Contains(found[0], want)):
		t.Errorf("found %q, want one with %q", found, want)
	}
}

// TestFails runs the exported functions in a process of their own, since a test
// cannot fail on purpose and pass.
func TestFails(t *testing.T) {
	const env = "DEPTEST_CHILD"
	switch os.Getenv(env) {
	case "never":
		Never(t, "example.org/m/bottom")
		return
	case "only":
		OnlyOurs(t)
		return
	case "std":
		StdOnly(t)
		return
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	root := write(t, sample)
	tests := []struct {
		name, child, dir string
		fails            bool
	}{
		{"never fails", "never", "top", true},
		{"never passes", "never", "bottomless", false},
		{"only ours fails", "only", "top", true},
		{"only ours passes", "only", "bottomless", false},
		{"std only fails", "std", "top", true},
		{"std only passes", "std", "bottomless", false},
		{"no package fails", "never", "empty", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestFails$")
			cmd.Dir = filepath.Join(root, tt.dir)
			cmd.Env = append(os.Environ(), env+"="+tt.child)
			if out, err := cmd.CombinedOutput(); (err != nil) != tt.fails {
				t.Errorf("child: %v, want it to fail: %t\n%s", err, tt.fails, out)
			}
		})
	}
}

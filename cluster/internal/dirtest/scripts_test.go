package dirtest

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the expected traces in testdata/pitfalls")

// TestPitfalls plays the schedules that the rules of the directory exist for.
// Each file has a script, a line "---", and what clients and operators see of
// it; without its rule it comes out differently (see TestFaults).
func TestPitfalls(t *testing.T) {
	for _, file := range scripts(t, "testdata/pitfalls") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, want, _ := strings.Cut(read(t, file), "---\n")
			r := Run(parse(t, text), true)
			if *update {
				if err := os.WriteFile(file, []byte(text+"---\n"+r.Trace), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if r.Trace != want {
				t.Errorf("trace differs: %s", difference(r.Trace, want))
			}
			if r.Violation != "" {
				t.Errorf("%s\n%s", r.Violation, r.Trace)
			}
		})
	}
}

// TestFound plays every run that has ever failed, made short.
func TestFound(t *testing.T) {
	for _, file := range scripts(t, "testdata/found") {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			if r := Run(parse(t, read(t, file)), true); r.Violation != "" {
				t.Errorf("%s\n%s", r.Violation, r.Trace)
			}
		})
	}
}

// TestScriptText writes scripts and reads them again.
func TestScriptText(t *testing.T) {
	for _, p := range Profiles {
		text := Generate(p, 1).String()
		if got := parse(t, text).String(); got != text {
			t.Errorf("%s: %s", p.Name, difference(got, text))
		}
	}
}

// TestSameAgain: a run depends on its script and on nothing else.
func TestSameAgain(t *testing.T) {
	for _, p := range Profiles {
		s := Generate(p, 7)
		one := Run(s, true)
		if two := Run(parse(t, s.String()), true); two.Trace != one.Trace || two.Steps != one.Steps {
			t.Errorf("%s: a second run differs: %s", p.Name, difference(two.Trace, one.Trace))
		}
	}
}

func scripts(t *testing.T, folder string) []string {
	t.Helper()
	files, err := filepath.Glob(folder + "/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func parse(t *testing.T, text string) *Script {
	t.Helper()
	s, err := ParseScript(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// difference is the first line in which two texts differ.
func difference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range g {
		if i >= len(w) || g[i] != w[i] {
			other := ""
			if i < len(w) {
				other = w[i]
			}
			return "got " + g[i] + ", want " + other
		}
	}
	if len(w) > len(g) {
		return "missing: " + w[len(g)]
	}
	return "none"
}

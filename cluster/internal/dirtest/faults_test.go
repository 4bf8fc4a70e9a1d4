package dirtest

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

var (
	faults = flag.Bool("faults", false, "plant the faults of testdata/faults in copies of the module, and see them found")
	fault  = flag.String("fault", "", "the only fault to plant, by the beginning of its file's name")
)

// TestFaults proves that the tests can fail: each file of testdata/faults
// changes one place of the code in a copy of the module, and names tests which
// must fail there. A file is
//
//	# what this is
//	in cluster/internal/directory/home.go
//	<<<<
//	lines that occur once in that file
//	====
//	lines that take their place
//	>>>>
//	fails TestPitfalls/P07
//	fails TestModel/flaps -seed 1 -steps 50000
//
// with more than one change or test if need be.
func TestFaults(t *testing.T) {
	if !*faults {
		t.Skip("runs the tests of many copies of the module: ask for it with -faults")
	}
	files, err := filepath.Glob("testdata/faults/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no faults: %v", err)
	}
	module := t.TempDir()
	copyModule(t, module)
	if out, err := inModule(t, module, "test", "-skip", "TestFaultsApply", "./cluster/internal/dirtest"); err != nil {
		t.Fatalf("fails without any fault: %s", out)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		if !strings.HasPrefix(name, *fault) {
			continue
		}
		t.Run(name, func(t *testing.T) { plant(t, module, file) })
	}
}

const root = "../../.." // of the module

// copyModule copies what the tests of this package need.
func copyModule(t *testing.T, to string) {
	t.Helper()
	for _, part := range []string{"go.mod", "go.sum", "messages", "internal/fifo", "cluster/internal"} {
		err := filepath.WalkDir(filepath.Join(root, part), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Join(to, filepath.Dir(rel)), 0o755); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(to, rel), b, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// faultFile is what a file of testdata/faults says.
type faultFile struct {
	changes []faultChange
	tests   [][]string
}

type faultChange struct{ file, find, replace string }

func parseFault(t *testing.T, file string) (f faultFile) {
	t.Helper()
	var in string
	var find, replace []string
	var into *[]string
	part := map[string]*[]string{"<<<<": &find, "====": &replace}
	for line := range strings.Lines(read(t, file)) {
		line = strings.TrimSuffix(line, "\n")
		switch words := strings.Fields(line); {
		case part[line] != nil:
			into = part[line]
			*into = nil
		case line == ">>>>":
			into = nil
			f.changes = append(f.changes, faultChange{in, strings.Join(find, "\n"), strings.Join(replace, "\n")})
		case into != nil:
			*into = append(*into, line)
		case len(words) == 2 && words[0] == "in":
			in = words[1]
		case len(words) > 1 && words[0] == "fails":
			f.tests = append(f.tests, words[1:])
		case line != "" && line[0] != '#':
			t.Fatalf("%s: what is %q?", file, line)
		}
	}
	if len(f.tests) == 0 || len(f.changes) == 0 {
		t.Fatalf("%s names no test or no change", file)
	}
	return f
}

// TestFaultsApply: the lines that the faults change are still there. When it
// fails the code has been changed and the fault must be.
func TestFaultsApply(t *testing.T) {
	for _, file := range scripts(t, "testdata/faults") {
		for _, c := range parseFault(t, file).changes {
			if n := strings.Count(read(t, filepath.Join(root, c.file)), c.find); n != 1 {
				t.Errorf("%s: the lines to change are in %s %d times:\n%s", filepath.Base(file), c.file, n, c.find)
			}
		}
	}
}

func plant(t *testing.T, module, file string) {
	f := parseFault(t, file)
	for _, c := range f.changes {
		change(t, filepath.Join(module, c.file), c.find, c.replace)
	}
	if out, err := inModule(t, module, "vet", "./cluster/internal/dirtest"); err != nil {
		t.Fatalf("the fault does not build: %s", out)
	}
	for _, args := range f.tests {
		args = append([]string{"test", "./cluster/internal/dirtest", "-count=1", "-timeout=300s", "-run", "^" + strings.ReplaceAll(args[0], "/", "$/^")}, args[1:]...)
		out, err := inModule(t, module, args...)
		_, first, _ := strings.Cut(out, "_test.go:")
		first, _, _ = strings.Cut(first, "\n")
		switch {
		case err == nil:
			t.Errorf("not found by go %s", strings.Join(args, " "))
		case first == "":
			t.Errorf("go %s: %s", strings.Join(args, " "), out)
		default:
			t.Logf("found by %s:%s", strings.Join(args[5:], " "), first)
		}
	}
}

// change replaces the only occurrence of a text in a file until the test ends.
func change(t *testing.T, file, find, replace string) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), find); n != 1 {
		t.Fatalf("%s has the lines to change %d times", filepath.Base(file), n)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(file, []byte(strings.Replace(string(b), find, replace, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func inModule(t *testing.T, module string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = module
	out, err := cmd.CombinedOutput()
	return string(out), err
}

package deptest

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Never fails the test when the package in whose directory it runs imports,
// itself or through other packages of its module, a package whose path is one
// of forbidden or lies below one. The package itself is never a finding. What a
// package of another module imports in turn is not followed: it cannot be one
// of ours.
func Never(t *testing.T, forbidden ...string) {
	t.Helper()
	found, err := never(".", forbidden)
	report(t, found, err)
}

// OnlyOurs fails the test when the package in whose directory it runs imports
// directly a package of its own module whose path is neither one of allowed nor
// lies below one. Packages of other modules and of the standard library are not
// looked at. With nothing allowed, the package may import none of ours.
func OnlyOurs(t *testing.T, allowed ...string) {
	t.Helper()
	found, err := onlyOurs(".", allowed)
	report(t, found, err)
}

// StdOnly fails the test when the package in whose directory it runs imports
// directly anything but the standard library.
func StdOnly(t *testing.T) {
	t.Helper()
	found, err := stdOnly(".")
	report(t, found, err)
}

func report(t *testing.T, found []string, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		t.Error(f)
	}
}

func never(dir string, forbidden []string) ([]string, error) {
	m, self, err := findModule(dir)
	if err != nil {
		return nil, err
	}
	var found []string
	via := map[string]string{self: ""} // package: the one it was first seen in
	for todo := []string{self}; len(todo) > 0; todo = todo[1:] {
		imports, err := m.imports(todo[0])
		if err != nil {
			return nil, err
		}
		for _, imp := range imports {
			if _, seen := via[imp]; seen {
				continue
			}
			via[imp] = todo[0]
			if below(imp, forbidden) {
				found = append(found, "must not import "+imp+": "+chain(via, imp))
				continue
			}
			if below(imp, []string{m.path}) {
				todo = append(todo, imp)
			}
		}
	}
	return found, nil
}

func onlyOurs(dir string, allowed []string) ([]string, error) {
	m, self, err := findModule(dir)
	if err != nil {
		return nil, err
	}
	imports, err := m.imports(self)
	var found []string
	for _, imp := range imports {
		if below(imp, []string{m.path}) && !below(imp, allowed) {
			found = append(found, self+" imports "+imp+", of this module it may only: "+strings.Join(allowed, ", "))
		}
	}
	return found, err
}

func stdOnly(dir string) ([]string, error) {
	m, self, err := findModule(dir)
	if err != nil {
		return nil, err
	}
	imports, err := m.imports(self)
	var found []string
	for _, imp := range imports {
		// A path of the standard library has no dot in its first element,
		// one that go get can fetch always has.
		first, _, _ := strings.Cut(imp, "/")
		if strings.Contains(first, ".") || below(imp, []string{m.path}) {
			found = append(found, self+" imports "+imp+", may only the standard library")
		}
	}
	return found, err
}

// below reports whether path is one of roots or lies below one.
func below(path string, roots []string) bool {
	return slices.ContainsFunc(roots, func(root string) bool {
		root = strings.TrimSuffix(root, "/")
		return path == root || strings.HasPrefix(path, root+"/")
	})
}

// chain writes the way by which imp was reached.
func chain(via map[string]string, imp string) string {
	way := []string{imp}
	for p := via[imp]; p != ""; p = via[p] {
		way = append(way, p)
	}
	slices.Reverse(way)
	return strings.Join(way, " -> ")
}

// module is a Go module on disk.
type module struct {
	path string // as go.mod says it
	root string // the directory of go.mod
}

// findModule looks for go.mod in dir and above and also returns the import path
// of the package in dir.
func findModule(dir string) (module, string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return module{}, "", err
	}
	for root := dir; ; root = filepath.Dir(root) {
		text, err := os.ReadFile(filepath.Join(root, "go.mod"))
		if errors.Is(err, fs.ErrNotExist) && filepath.Dir(root) != root {
			continue
		}
		if err != nil {
			return module{}, "", fmt.Errorf("find go.mod above %s: %w", dir, err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "module" {
				m := module{path: f[1], root: root}
				rel, err := filepath.Rel(root, dir)
				return m, path.Join(m.path, filepath.ToSlash(rel)), err
			}
		}
		return module{}, "", fmt.Errorf("no module line in %s", filepath.Join(root, "go.mod"))
	}
}

// imports returns what the files of a package of m import, sorted, each once.
func (m module) imports(pkg string) ([]string, error) {
	rel := strings.TrimPrefix(strings.TrimPrefix(pkg, m.path), "/")
	dir := filepath.Join(m.root, filepath.FromSlash(rel))
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read package %s: %w", pkg, err)
	}
	var all []string
	files := 0
	for _, e := range entries {
		name := e.Name()
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") ||
			strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
			continue // as the go command does
		}
		src, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, name), src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return nil, err
		}
		if ignored(src, f) {
			continue
		}
		files++
		for _, spec := range f.Imports {
			imp, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			all = append(all, imp)
		}
	}
	if files == 0 {
		// A package that is not there would pass any check.
		return nil, fmt.Errorf("package %s has no Go files in %s", pkg, dir)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// ignored reports whether f has the constraint of files that belong to no
// package, such as generators.
func ignored(src []byte, f *ast.File) bool {
	for line := range bytes.Lines(src[:f.Package-f.FileStart]) {
		text := strings.TrimSpace(string(line))
		if !constraint.IsGoBuild(text) {
			continue
		}
		expr, err := constraint.Parse(text)
		tag, ok := expr.(*constraint.TagExpr)
		return err == nil && ok && tag.Tag == "ignore"
	}
	return false
}

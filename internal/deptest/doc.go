// Package deptest holds the import direction of this module: each package has
// a test that names what it must not, or may, import.
//
//	func TestImports(t *testing.T) {
//		deptest.Never(t, "github.com/crosspod/crosspod/relay")
//		deptest.OnlyOurs(t, "github.com/crosspod/crosspod/messages")
//	}
//
// It reads the import clauses of the source files, starts no process and needs
// neither a network nor downloaded modules. All files that are not tests count,
// for whatever system they are built; only files with the constraint
// "//go:build ignore" do not.
package deptest

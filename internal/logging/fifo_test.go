//go:build unix

package logging

import (
	"bufio"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A named pipe without a reader delays neither the start nor a caller, and a reader that
// comes later gets the lines that waited for it.
func TestPipeWithoutReader(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("no named pipes here:", err)
	}
	for _, rotate := range []bool{true, false} {
		l, err := Open(Config{File: path, DisableRotation: !rotate})
		if err != nil {
			t.Fatal(err)
		}
		l.Info("first")
		reader, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(reader).ReadString('\n'); err != nil || !strings.Contains(line, "first") {
			t.Errorf("rotate %t: read %q, %v", rotate, line, err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		_ = reader.Close()
	}
}

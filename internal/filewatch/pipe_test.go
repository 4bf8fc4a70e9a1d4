//go:build unix

package filewatch

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// A named pipe does not delay the start, whether it has a writer or not.
func TestReadOfAPipe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Skip("no named pipes here:", err)
	}
	if text, err := Read(path, 10); err != nil || len(text) != 0 {
		t.Errorf("without a writer: %q, %v, want nothing", text, err)
	}
	writer, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path, 10); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("with a writer that writes nothing: %v, want that the time is over", err)
	}
	_ = writer.Close()
}

func TestReadOfTooMuch(t *testing.T) {
	if _, err := Read("/dev/zero", 10); err == nil || err.Error() != "more than 10 bytes" {
		t.Errorf("err = %v", err)
	}
}

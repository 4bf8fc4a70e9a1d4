package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/crosspod/crosspod/internal/filewatch"
	"github.com/crosspod/crosspod/internal/secrettext"
)

// ErrNoSecret means that a secret file has no secret.
var ErrNoSecret = errors.New("auth: no secret in the file")

// maxSecretFile bounds what is read of a secret file, in bytes.
const maxSecretFile = 64 << 10

// ReadSecretFile returns the secrets of a file: one per line, the first is the
// one to sign with. Line ends, LF or CRLF, and a byte order mark before the first
// line are not part of a secret; everything else on a line is, spaces included. Blank
// lines are skipped. It fails if the file cannot be read, is larger than 64 KiB, is
// not UTF-8, has a control character (the error has the line number), has more than
// [MaxSecrets] secrets, or none ([ErrNoSecret]).
func ReadSecretFile(path string) ([]string, error) {
	secrets, err := readSecrets(path)
	if err != nil {
		return nil, fmt.Errorf("read secret file %s: %w", path, err)
	}
	return secrets, nil
}

func readSecrets(path string) ([]string, error) {
	text, err := filewatch.Read(path, maxSecretFile)
	if err != nil {
		// The path is named by the caller.
		if e, ok := errors.AsType[*os.PathError](err); ok {
			err = e.Err
		}
		return nil, err
	}
	var secrets []string
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(text), secrettext.ByteOrderMark)) {
		number++
		if whole, ok := strings.CutSuffix(line, "\n"); ok {
			line = strings.TrimSuffix(whole, "\r")
		}
		if strings.Trim(line, " \t") == "" {
			continue
		}
		if err := secrettext.Check(line); err != nil {
			return nil, fmt.Errorf("line %d %w", number, err)
		}
		secrets = append(secrets, line)
	}
	switch {
	case len(secrets) == 0:
		return nil, ErrNoSecret
	case len(secrets) > MaxSecrets:
		return nil, fmt.Errorf("%d secrets, at most %d are live at once", len(secrets), MaxSecrets)
	}
	return secrets, nil
}

// WatchSecretFile calls onChange with the secrets of the file, as
// [ReadSecretFile] returns them, at first and whenever they have changed, until
// ctx ends; then it returns nil. It calls onChange from its own goroutine, one
// call at a time. A change is usually seen within 0.1 s, at most within 1 s, and
// within a minute where the file system does not report it or the system has no
// watch left.
//
// If the file cannot be read or has no secret, it logs a warning to logger (nil: none)
// and does not call onChange, so the old secrets stay. It also warns about a secret
// that is very short or ends in a blank, but passes it on as it is. It watches the
// folder, because Kubernetes changes a mounted Secret by swapping a symlink beside the
// file. It returns an error if there is no such folder.
func WatchSecretFile(ctx context.Context, path string, logger *slog.Logger, onChange func([]string)) error {
	return WatchCheckedSecretFile(ctx, path, logger, nil, onChange)
}

// WatchCheckedSecretFile is [WatchSecretFile] with a further condition: secrets
// for which check returns an error, which must not hold them, make the file one
// that is not usable. nil: all are good.
func WatchCheckedSecretFile(ctx context.Context, path string, logger *slog.Logger, check func([]string) error, onChange func([]string)) error {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	w := &secretWatch{path: path, log: logger.With("file", path), check: check, onChange: onChange}
	if err := filewatch.Watch(ctx, w.log, w.look, path); err != nil {
		return fmt.Errorf("watch secret file: %w", err)
	}
	return nil
}

// secretWatch decides what to make of the file.
type secretWatch struct {
	path     string
	log      *slog.Logger
	check    func([]string) error // nil: none
	onChange func([]string)

	last   []string // handed out last
	broken string   // the error last warned of, "" when the file was good
}

// look reads the file and hands out what is new.
func (w *secretWatch) look() {
	secrets, err := readSecrets(w.path)
	if err == nil && w.check != nil {
		err = w.check(slices.Clone(secrets))
	}
	if err != nil {
		if w.broken != err.Error() {
			w.log.Warn("secret file not usable, secrets stay as they are", "err", err)
		}
		w.broken = err.Error()
		return
	}
	w.broken = ""
	if slices.Equal(secrets, w.last) {
		return
	}
	changed := w.last != nil
	w.last = secrets
	w.onChange(slices.Clone(secrets))
	if changed { // said once it is so
		w.log.Info("secrets changed", "count", len(secrets))
	}
	for i, secret := range secrets {
		for _, doubt := range secrettext.Doubts(secret) {
			w.log.Warn("secret is probably not what was meant, and taken as it is", "secret", fmt.Sprintf("%d of %d", i+1, len(secrets)), "why", "it "+doubt)
		}
	}
}

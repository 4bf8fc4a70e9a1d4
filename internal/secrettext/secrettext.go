// Package secrettext holds what is true of the text of every secret, wherever it
// comes from. Its errors never have the secret in them.
package secrettext

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ByteOrderMark is what some editors put before the first line of a file.
const ByteOrderMark = "\ufeff"

// Check says why text is no secret: a secret is UTF-8 without control
// characters. The error reads on from where the text stands, such as "line 3".
func Check(text string) error {
	// Before all else, since it explains the rest.
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		return errors.New("is UTF-16: want UTF-8, the encoding to choose when the file is saved")
	}
	for _, r := range text {
		switch {
		case r == 0:
			return errors.New("has a NUL byte, as UTF-16 has in every other place: want UTF-8, the encoding to choose when the file is saved")
		case r == '\n':
			return errors.New("has a line end within: want one line")
		case r == '\r':
			return errors.New("has a carriage return that is not part of a line end: want lines that end in LF or CRLF")
		case string(r) == ByteOrderMark:
			return errors.New("has a byte order mark that is not at the beginning of the file: want it deleted")
		case unicode.IsControl(r), r == '\u2028', r == '\u2029': // line and paragraph separator
			return fmt.Errorf("has the control character U+%04X: want text without control characters", r)
		}
	}
	if !utf8.ValidString(text) {
		return errors.New("is not UTF-8: want that encoding when the file is saved")
	}
	return nil
}

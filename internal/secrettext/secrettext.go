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
			return errors.New("has a line end within: want a secret that is one line")
		case r == '\r':
			return errors.New("has a carriage return that is not part of a line end: want lines that end in LF or CRLF")
		case string(r) == ByteOrderMark:
			return errors.New("has a byte order mark, which belongs at most before the first line of a file: want it deleted")
		case unicode.IsControl(r), r == '\u2028', r == '\u2029': // line and paragraph separator
			return fmt.Errorf("has the control character U+%04X: want text without control characters", r)
		}
	}
	if !utf8.ValidString(text) {
		return errors.New("is not UTF-8: want that encoding when the file is saved")
	}
	return nil
}

// Short is how many characters a secret should have at least.
const Short = 16

// Edge names what stands at an end of text and is hardly meant to be part of a
// secret, such as "ends in a line end"; "" is nothing.
func Edge(text string) string {
	first, _ := utf8.DecodeRuneInString(text)
	last, _ := utf8.DecodeLastRuneInString(text)
	switch {
	case last == '\n' || last == '\r':
		return "ends in a line end"
	case unicode.IsSpace(last):
		return "ends in a blank"
	case unicode.IsSpace(first):
		return "begins with a blank"
	}
	return ""
}

// Doubts says what is odd about a secret that is taken as it is. Each reads on
// from where the text stands.
func Doubts(text string) (all []string) {
	const unless = " part of the secret: want it without, unless the issuer of tokens has the same"
	inner := strings.TrimSpace(text)
	if edge := Edge(text); edge != "" {
		all = append(all, edge+", which is"+unless)
	}
	if n := len(inner); n > 1 && inner[0] == inner[n-1] && (inner[0] == '"' || inner[0] == '\'') {
		all = append(all, "stands in quotes, which are"+unless)
	}
	if err := Check(inner); err != nil {
		all = append(all, err.Error())
	}
	if n := utf8.RuneCountInString(inner); n < Short {
		all = append(all, fmt.Sprintf("has %d characters: want at least %d, since a short secret can be guessed; relay token --new-secret makes one", n, Short))
	}
	return all
}

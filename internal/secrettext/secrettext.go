// Package secrettext has the rules for the text of a secret, wherever it comes from.
// Its errors never contain the secret.
package secrettext

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ByteOrderMark is what some editors write before the first line of a file.
const ByteOrderMark = "\ufeff"

// Check returns why text is not a secret: a secret is UTF-8 without control characters.
// The error continues a sentence that begins with the place of the text, such as
// "line 3".
func Check(text string) error {
	// First, because it explains all other errors.
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		return errors.New("is UTF-16: save the file as UTF-8")
	}
	for _, r := range text {
		switch {
		case r == 0:
			return errors.New("has a NUL byte, as UTF-16 has at every second place: save the file as UTF-8")
		case r == '\n':
			return errors.New("has a line end in the middle: want a secret on one line")
		case r == '\r':
			return errors.New("has a carriage return that is not part of a line end: want lines that end in LF or CRLF")
		case string(r) == ByteOrderMark:
			return errors.New("has a byte order mark, which is allowed only before the first line of a file: delete it")
		case unicode.IsControl(r), r == '\u2028', r == '\u2029': // line and paragraph separator
			return fmt.Errorf("has the control character U+%04X: want text without control characters", r)
		}
	}
	if !utf8.ValidString(text) {
		return errors.New("is not UTF-8: save the file as UTF-8")
	}
	return nil
}

// Short is how many characters a secret should have at least.
const Short = 16

// Edge names a blank, line end or quote at an end of text, which is probably not meant
// to be part of a secret, such as "ends in a line end"; "" if there is none.
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

// Doubts returns what is odd about a secret that is used as it is. Each continues a
// sentence that begins with the place of the text.
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

package setting

import (
	"slices"
	"strings"
)

// Nearest returns the one of words that text was probably meant to be, "" when
// none is near: one that begins with text, one that has all its parts and another,
// or one that a typing mistake or two turn into it.
func Nearest(text string, words []string) string {
	best, least := "", 1+max(1, (len(text)+1)/3)
	for _, word := range words {
		d := distance(text, word)
		if len(text) >= 3 && strings.HasPrefix(word, text) {
			d = min(d, 1)
		}
		if more, all := missing(text, word); all && text != "" {
			d = min(d, more)
		}
		if d < least {
			best, least = word, d
		}
	}
	return best
}

// missing reports whether all parts of a name are parts of word, as those of
// RELAY_CLUSTER_SECRET are of RELAY_CLUSTER_AUTH_SECRET, and how many more that
// has.
func missing(name, word string) (more int, all bool) {
	between := func(r rune) bool { return r == '_' || r == '-' }
	parts := strings.FieldsFunc(word, between)
	for part := range strings.FieldsFuncSeq(name, between) {
		i := slices.Index(parts, part)
		if i < 0 {
			return 0, false
		}
		parts = slices.Delete(parts, i, i+1)
	}
	return len(parts), true
}

// distance is how many letters were changed, added, left out, or swapped with
// their neighbour between a and b.
func distance(a, b string) int {
	var before []int
	last := make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last = last, row
	}
	return last[len(b)]
}

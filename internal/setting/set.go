package setting

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crosspod/crosspod/internal/secrettext"
)

// A Setting is one thing an operator can set. It is a [flag.Value], and one of
// pflag.
type Setting struct {
	// Name is the flag, without dashes.
	Name string
	// Letter is the flag's short form, one letter; "" for none.
	Letter string
	// Group is the heading it is listed under.
	Group string
	// Usage says in one line what it is for.
	Usage string
	// ValueName is what its value is called, such as SIZE; "" where none is
	// needed.
	ValueName string
	// Default is its value when it is not set, as the help shows it; "" for none.
	Default string

	parse  func(string) error
	isBool bool
	isList bool
	secret bool
	doubts []string // of a secret that is set
	env    []string // further names of its variable, without prefix
	whole  []string // further variables, by their whole name
	given  bool     // by a flag
	from   string   // the variable that has set it, "": none has
	set    *Set
}

var _ flag.Value = (*Setting)(nil)

// Set takes a value from the command line.
func (s *Setting) Set(value string) error {
	s.given = true
	if s.secret {
		s.doubts = secrettext.Doubts(value)
	}
	err := s.take(value)
	if err != nil && s.set.AtOnce {
		s.set.wrong = append(s.set.wrong, s.Invalid("--"+s.Name, value, err))
		return nil
	}
	return err
}

// take parses value unless it has at its ends what files of variables and shells
// leave there: it is hardly ever meant, and would be part of a name or a path. Of
// secrets it is part, see [secrettext.Doubts].
func (s *Setting) take(value string) error {
	switch {
	case s.secret:
	case strings.TrimSpace(value) != value:
		return errors.New("want it without blanks or line ends around it")
	case strings.Trim(value, quotes) != value:
		return errors.New("want it without quotes around it")
	}
	return s.parse(value)
}

const quotes = "\"'`“”„‘’«»"

// String returns the default, as [flag.Value] asks.
func (s *Setting) String() string { return s.Default }

// Type returns what the value is called, as pflag asks.
func (s *Setting) Type() string { return s.ValueName }

// IsBoolFlag reports whether the flag may stand without a value.
func (s *Setting) IsBoolFlag() bool { return s.isBool }

// Given reports whether a flag has set it.
func (s *Setting) Given() bool { return s.given }

// Source is what has set it: the flag, with dashes, or a variable; "" when nothing
// has.
func (s *Setting) Source() string {
	if s.given {
		return "--" + s.Name
	}
	return s.from
}

// Short gives the flag a short form.
func (s *Setting) Short(letter string) *Setting {
	s.Letter = letter
	return s
}

// Secret keeps the value out of messages.
func (s *Setting) Secret() *Setting {
	s.secret = true
	return s
}

// AlsoEnv gives its variable a further name, without prefix.
func (s *Setting) AlsoEnv(names ...string) *Setting {
	s.env = append(s.env, names...)
	return s
}

// AlsoVariable gives it a further variable, which has no prefix.
func (s *Setting) AlsoVariable(name string) *Setting {
	s.whole = append(s.whole, name)
	return s
}

// A Set is the settings of one command. The zero value is empty.
type Set struct {
	// AtOnce lets FromEnv report wrong values of flags together with the others.
	AtOnce bool

	settings []*Setting
	group    string
	wrong    []error // of flags so far
}

// All returns the settings in the order they were added. The caller must not
// change the slice.
func (s *Set) All() []*Setting { return s.settings }

// Group puts what is added from now on under a heading.
func (s *Set) Group(name string) { s.group = name }

// Source is what has set the setting of that name: the flag, with dashes, or a
// variable. Of a default it is the flag.
func (s *Set) Source(name string) string {
	for _, st := range s.settings {
		if from := st.Source(); st.Name == name && from != "" {
			return from
		}
	}
	return "--" + name
}

// Func adds a setting whose value parse takes; an error of parse says what
// would be right ("want …") and not what was given. A word of usage in
// backquotes, here and below, is what the value is called.
func (s *Set) Func(name, def, usage string, parse func(string) error) *Setting {
	st := &Setting{Name: name, Group: s.group, Usage: usage, ValueName: "VALUE", Default: def, parse: parse, set: s}
	if before, rest, ok := strings.Cut(usage, "`"); ok {
		word, after, _ := strings.Cut(rest, "`")
		st.Usage, st.ValueName = before+word+after, word
	}
	s.settings = append(s.settings, st)
	return st
}

// Called names the value unless its usage did.
func (s *Setting) Called(name string) *Setting {
	if s.ValueName == "VALUE" {
		s.ValueName = name
	}
	return s
}

// Var adds a setting that is parsed into p, as [Set.Func] does. p is set to def; the
// help shows it as shown.
func Var[T any](s *Set, p *T, name string, def T, shown, usage string, parse func(string) (T, error)) *Setting {
	*p = def
	return s.Func(name, shown, usage, func(v string) error {
		value, err := parse(v)
		if err == nil {
			*p = value
		}
		return err
	})
}

// String adds a setting that is a text, taken as it is.
func (s *Set) String(p *string, name, def, usage string) *Setting {
	return Var(s, p, name, def, def, usage, func(v string) (string, error) { return v, nil })
}

// Bool adds a setting that is on or off, off by default.
func (s *Set) Bool(p *bool, name, usage string) *Setting {
	st := Var(s, p, name, false, "", usage, func(v string) (bool, error) {
		on, err := strconv.ParseBool(strings.ToLower(v))
		if err != nil {
			err = errors.New("want true or false")
		}
		return on, err
	})
	st.isBool, st.ValueName = true, ""
	return st
}

// Word adds a setting that is one of words, in upper or lower case. want says what
// may be given.
func (s *Set) Word(p *string, name, def, usage, want string, words ...string) *Setting {
	return Var(s, p, name, def, def, usage, func(v string) (string, error) {
		if v = strings.ToLower(v); !slices.Contains(words, v) {
			return "", errors.New("want " + want)
		}
		return v, nil
	})
}

// Int adds a setting that is a whole number from least to most.
func (s *Set) Int(p *int, name string, def, least, most int, usage string) *Setting {
	return Var(s, p, name, def, strconv.Itoa(def), usage, func(v string) (int, error) {
		n, err := strconv.Atoi(v)
		switch {
		case err == nil && n >= least && n <= most:
			return n, nil
		case most == math.MaxInt:
			return 0, fmt.Errorf("want a whole number, at least %d", least)
		}
		return 0, fmt.Errorf("want a whole number from %d to %d", least, most)
	}).Called("N")
}

// Rate adds a setting that is so many in a second, 0 for no limit.
func (s *Set) Rate(p *float64, name string, def float64, usage string) *Setting {
	return Var(s, p, name, def, strconv.FormatFloat(def, 'g', -1, 64), usage, func(v string) (float64, error) {
		n, err := strconv.ParseFloat(v, 64)
		if err != nil || n < 0 || math.IsInf(n, 0) || math.IsNaN(n) {
			return 0, errors.New("want a number, 0 for no limit")
		}
		return n, nil
	}).Called("N")
}

// Duration adds a setting that is a time span, not negative.
func (s *Set) Duration(p *time.Duration, name string, def time.Duration, usage string) *Setting {
	return Var(s, p, name, def, def.String(), usage, func(v string) (time.Duration, error) {
		d, err := time.ParseDuration(strings.ToLower(v))
		if err != nil || d < 0 {
			return 0, errors.New("want a time span such as 500ms, 30s or 2m")
		}
		return d, nil
	}).Called("TIME")
}

// Size adds a setting that is a number of bytes, such as 512KiB. def is in
// bytes; defText, when not empty, says in its place what 0 means.
func Size[T int | int64](s *Set, p *T, name string, def T, defText, usage string) *Setting {
	return Var(s, p, name, def, cmp.Or(defText, formatSize(int64(def))), usage, func(v string) (T, error) {
		n, err := parseSize(v)
		return T(n), err
	}).Called("SIZE")
}

// List adds a setting with any number of values, separated by commas or given
// by several flags. Values of flags are added to those of the environment. An
// error of add names the value that is wrong, where there are several.
func (s *Set) List(name, def, usage string, add func(string) error) *Setting {
	st := s.Func(name, def, usage, func(v string) error {
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			if err := add(item); err != nil {
				if item != strings.TrimSpace(v) {
					err = fmt.Errorf("%q in it is wrong: %w", item, err)
				}
				return err
			}
		}
		return nil
	})
	st.isList = true
	return st.Called("LIST")
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1},
}

func parseSize(text string) (int64, error) {
	unit := int64(1)
	number := text
	for _, u := range sizeUnits {
		rest := len(text) - len(u.suffix)
		if rest >= 0 && strings.EqualFold(text[rest:], u.suffix) {
			number, unit = strings.TrimSpace(text[:rest]), u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/unit {
		return 0, errors.New("want a size such as 65536, 512KiB, 64MiB or 2GiB")
	}
	return n * unit, nil
}

func formatSize(n int64) string {
	for i := len(sizeUnits) - 2; i >= 0; i-- {
		if u := sizeUnits[i]; n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10)
}

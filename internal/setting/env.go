package setting

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/crosspod/crosspod/internal/secrettext"
)

// Prefixes are what the variables of the environment begin with, the first
// that is set wins: ours, then those of the two relays whose deployments run
// this one without a change.
var Prefixes = []string{"RELAY_", "NB_", "OZ_"}

// FromEnv sets what no flag has set, and the lists, from the environment, which
// lookup reads as [os.LookupEnv] does. An empty variable counts as unset. The
// warnings name variables that are set and not used, and secrets, also of flags,
// that are probably not what was meant. The error joins one for each variable
// whose value is not right.
func (s *Set) FromEnv(lookup func(string) (string, bool)) (warnings []string, err error) {
	errs := s.wrong
	for _, st := range s.settings {
		used, usedValue := "", ""
		for _, name := range st.EnvNames() {
			value, _ := lookup(name)
			switch {
			case value == "":
			case !st.secret && isServiceLink(value):
				warnings = append(warnings, fmt.Sprintf("%s=%s is ignored: Kubernetes sets it for a Service, it is not a value of --%s", name, value, st.Name))
			case used == "":
				used, usedValue = name, value
			case value != usedValue:
				warnings = append(warnings, fmt.Sprintf("%s is ignored: %s is set to another value, and wins", name, used))
			}
		}
		if used != "" && (!st.given || st.isList) {
			st.from = used
			if err := st.take(usedValue); err != nil {
				errs = append(errs, st.Invalid(used, usedValue, err))
			}
			if st.secret {
				st.doubts = secrettext.Doubts(usedValue)
			}
		}
		for _, doubt := range st.doubts {
			warnings = append(warnings, st.Source()+" "+doubt)
		}
	}
	return warnings, errors.Join(errs...)
}

// Unknown names the variables of environ, which is as of [os.Environ], that begin
// like ours and are no setting, with the one that was probably meant. Those that
// Kubernetes sets for a Service are left out.
func (s *Set) Unknown(environ []string) (warnings []string) {
	var names []string
	for _, st := range s.settings {
		names = append(names, st.EnvNames()...)
	}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		i := slices.IndexFunc(Prefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		if i < 0 || value == "" || slices.Contains(names, name) || slices.Contains(ofOtherCommands, name) ||
			serviceVariable.MatchString(name) || isServiceLink(value) {
			continue
		}
		meant := "relay start --help lists them"
		prefix := Prefixes[i]
		var rests []string
		for _, other := range names {
			if rest, ok := strings.CutPrefix(other, prefix); ok {
				rests = append(rests, rest)
			}
		}
		if nearest := Nearest(strings.TrimPrefix(name, prefix), rests); nearest != "" {
			meant = "is " + prefix + nearest + " meant?"
		}
		warnings = append(warnings, fmt.Sprintf("%s is no setting: %s", name, meant))
	}
	slices.Sort(warnings)
	return warnings
}

// ofOtherCommands are variables that only commands beside start read.
var ofOtherCommands = []string{"RELAY_URL", "RELAY_SECRET", "RELAY_SECRET_FILE", "RELAY_TOKEN", "RELAY_TOKEN_FILE", "RELAY_CA_FILE", "RELAY_INSECURE", "RELAY_OPS_ADDRESS"}

// serviceVariable matches the names of variables that Kubernetes sets for a Service,
// but for the one whose value is known by [isServiceLink].
var serviceVariable = regexp.MustCompile(`_SERVICE_(HOST|PORT|PORT_[A-Z0-9_]+)$|_PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$`)

// EnvNames returns the variables that set it, the one that wins first.
func (s *Setting) EnvNames() []string {
	var names []string
	for _, prefix := range Prefixes {
		names = append(names, prefix+strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_")))
		for _, name := range s.env {
			names = append(names, prefix+name)
		}
	}
	return append(names, s.whole...)
}

// Invalid says that a value is not right; that of a secret is not shown.
func (s *Setting) Invalid(where, value string, err error) error {
	if s.secret {
		return fmt.Errorf("%s is not right: %w", where, err)
	}
	return fmt.Errorf("%s is %q: %w", where, value, err)
}

// isServiceLink reports whether value is an address as Kubernetes writes it into
// the environment of every container for each Service of its namespace: a
// Service named relay-metrics sets RELAY_METRICS_PORT to one.
func isServiceLink(value string) bool {
	u, err := url.Parse(value)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Path != "" || u.RawQuery != "" {
		return false
	}
	if u.Scheme != "tcp" && u.Scheme != "udp" && u.Scheme != "sctp" {
		return false
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && port > 0
}

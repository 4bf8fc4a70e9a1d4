package setting

import (
	"errors"
	"strings"
)

// checkName says whether name can be one of a host. It may end in a dot.
func checkName(name string) error {
	name = strings.TrimSuffix(name, ".")
	if len(name) > 253 {
		return errors.New("want a name of at most 253 characters")
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > 63 || strings.ContainsFunc(label, notOfAName) {
			return errors.New("want a name of letters a to z, digits and hyphens, in parts of at most 63 with dots between")
		}
	}
	return nil
}

package setting

import (
	"errors"
	"net/netip"
	"strings"

	"golang.org/x/net/idna"
)

// certifiable returns the name to get a certificate for, as directories and clients
// write it, when there can be a certificate for it that is proved by a connection.
func certifiable(v string) (string, error) {
	const such = "want a name such as relay.example.com"
	name := strings.TrimSuffix(v, ".")
	host := strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	switch _, err := netip.ParseAddr(host); {
	case err == nil:
		return "", errors.New("want the name that peers dial: there is no certificate for an IP address here")
	case strings.Contains(name, "*"):
		return "", errors.New("want each name by itself: a certificate for * is proved by DNS records, which this relay does not do; or give it one made elsewhere (--tls-cert-file)")
	case strings.ContainsAny(name, "/:@"):
		return "", errors.New(such + ", without scheme, user, port or path")
	case !strings.Contains(name, "."):
		return "", errors.New(such + ": there is no certificate for a name of one part")
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err == nil {
		err = checkName(ascii)
	}
	top := ascii[strings.LastIndex(ascii, ".")+1:]
	if err != nil || strings.Trim(top, "0123456789") == "" {
		return "", errors.New(such + ", of letters, digits and hyphens, in parts of at most 63 with dots between")
	}
	return ascii, nil
}

// privateTops are the last parts of names that are never those of the internet (RFC
// 2606, 6761, 6762, 7686, 8375, 9476 and ICANN's list), so that no public
// directory can prove them.
var privateTops = []string{"alt", "arpa", "example", "home", "internal", "invalid", "lan", "local", "localdomain", "localhost", "onion", "test"}

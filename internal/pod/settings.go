package pod

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/crosspod/crosspod/internal/relayurl"
	"github.com/crosspod/crosspod/internal/setting"
)

// Settings are the options of `relay start`, part by part. [NewSettings] makes it.
type Settings struct {
	Peers
	Secrets
	Certificate
	Cluster Cluster
	Operators
	Limits Limits
	Stopping
	Log Logs
	WithoutEffect

	set *setting.Set // that fills it
}

// section is the settings of one part of the pod.
type section interface {
	// settings adds them, below their heading in the help, and sets the defaults.
	settings(s *setting.Set)
	// check reports what is missing or does not go together.
	check(p *problems)
}

// sections returns all of them in the order of the help.
func (r *Settings) sections() []section {
	return []section{&r.Peers, &r.Secrets, &r.Certificate, &r.Cluster, &r.Operators, &r.Limits, &r.Stopping, &r.Log, &r.WithoutEffect}
}

// NewSettings returns settings that hold the defaults and the set that fills them.
func NewSettings() (*Settings, *setting.Set) {
	r := &Settings{set: &setting.Set{AtOnce: true}}
	for _, part := range r.sections() {
		part.settings(r.set)
	}
	return r, r.set
}

// problems are what is wrong with settings.
type problems struct {
	*setting.Set
	errs []error
}

func (p *problems) add(format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format, args...))
}

// Validate reports everything that is missing or does not go together.
func (r *Settings) Validate() error {
	p := &problems{Set: r.set}
	for _, part := range r.sections() {
		part.check(p)
	}
	if u, err := relayurl.Parse(r.ExposedAddress); err == nil && !u.TLS && r.TLS() {
		p.add("%s is %q, which means plain TCP, but there is a certificate: want rels://", p.Source("exposed-address"), r.ExposedAddress)
	}
	r.checkListeners(p)
	return errors.Join(p.errs...)
}

// Source is what has set the setting of that name: the flag, with dashes, or a
// variable. Of a default it is the flag.
func (r *Settings) Source(name string) string { return r.set.Source(name) }

// Warnings returns a line for each setting that is accepted and has no effect.
func (r *Settings) Warnings() []string {
	var all []string
	if r.STUN {
		all = append(all, "--enable-stun has no effect yet: this relay answers no STUN requests; its peers need another STUN server")
	}
	if r.LetsEncrypt() && r.TLSCertFile != "" {
		all = append(all, "--tls-cert-file has no effect beside --letsencrypt-domains")
	}
	if r.Cluster.Wanted() {
		return all
	}
	var idle []string
	for _, s := range r.set.All() {
		if from := s.Source(); s.Group == otherPods && from != "" {
			idle = append(idle, from)
		}
	}
	if len(idle) == 0 {
		return all
	}
	verb := "have"
	if len(idle) == 1 {
		verb = "has"
	}
	return append(all, fmt.Sprintf("%s %s no effect without --cluster-endpoints, --cluster-headless or --cluster-peers: this pod links to no other pod", strings.Join(idle, ", "), verb))
}

// A listener is an address to listen at and the setting it comes from.
type listener struct{ name, address string }

// listeners returns where the pod listens: for peers, for operators and for other
// pods.
func (r *Settings) listeners() []listener {
	metrics := "metrics-listen-address"
	if r.MetricsListenAddress == "" {
		metrics = "metrics-port"
	}
	all := []listener{
		{"listen-address", r.ListenAddress},
		{metrics, r.MetricsAddress()},
		{"health-listen-address", r.HealthListenAddress},
		{"ops-listen-address", r.OpsListenAddress},
	}
	c := &r.Cluster
	switch {
	case c.ListenAddress != "":
		all = append(all, listener{"cluster-listen-address", c.ListenAddress})
	case c.Wanted():
		for _, ip := range c.PodIPs {
			all = append(all, listener{"cluster-port", net.JoinHostPort(ip.String(), strconv.Itoa(c.ClusterPort()))})
		}
	}
	return all
}

// checkListeners reports what cannot be listened at, and where two would.
func (r *Settings) checkListeners(p *problems) {
	all := r.listeners()
	for i, l := range all {
		if err := checkListen(l.address); err != nil {
			p.add("%s is %q: %w", p.Source(l.name), l.address, err)
		}
		for _, other := range all[:i] {
			if overlap(l.address, other.address) {
				p.add("%s is %q and %s is %q: want a port for each", p.Source(other.name), other.address, p.Source(l.name), l.address)
			}
		}
	}
}

// overlap reports whether two listeners cannot have their addresses at once.
func overlap(a, b string) bool {
	hostA, portA, errA := net.SplitHostPort(a)
	hostB, portB, errB := net.SplitHostPort(b)
	if errA != nil || errB != nil || portA != portB || portA == "0" {
		return false
	}
	any := func(host string) bool {
		ip, err := netip.ParseAddr(host)
		return host == "" || err == nil && ip.IsUnspecified()
	}
	return hostA == hostB || any(hostA) || any(hostB)
}

func checkListen(address string) error {
	host, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err == nil && host != "" {
		if _, notIP := netip.ParseAddr(host); notIP != nil {
			err = checkName(host)
		}
	}
	if err != nil {
		return errors.New("want an address and a port, such as :443 or 127.0.0.1:9000")
	}
	return nil
}

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

// notOfAName reports whether no name of a host has c.
func notOfAName(c rune) bool {
	switch {
	case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		return false
	}
	return true
}

// cannotListen says which setting an address that cannot be listened at is from,
// and what else could be set. name is how its setting begins.
func (r *Settings) cannotListen(name string, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "listen" {
		return err
	}
	all := r.listeners()
	i := slices.IndexFunc(all, func(l listener) bool { return strings.HasPrefix(l.name, name) })
	if i < 0 {
		return err
	}
	l, advice := all[i], ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = ": another program listens there; stop it, or set --" + l.name + " to another"
		if l.name == "metrics-port" {
			advice += " (9090 is Prometheus's own port), or --metrics-listen-address"
		}
	case errors.Is(err, syscall.EACCES):
		advice = ": this user may not listen below port 1024; set --" + l.name + " to a higher port, or grant CAP_NET_BIND_SERVICE"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = ": this machine does not have that address; set --" + l.name + " to one that it has, or without a host"
	}
	return fmt.Errorf("%s is %q: %w%s", r.Source(l.name), l.address, err, advice)
}

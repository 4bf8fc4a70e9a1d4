package pod

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/endpointslices"
	"github.com/crosspod/crosspod/internal/secrettext"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/relay"
)

// MinClusterSecret is the least length of a secret that pods share, in
// characters: an attacker that reads what two pods exchange can try secrets against
// it for as long as he likes.
const MinClusterSecret = 32

const (
	defaultClusterPort = 7090
	// minClusterInterval keeps a fleet of pods from flooding the name server.
	minClusterInterval = time.Second
)

// Cluster is how a pod finds and joins the other pods of its relay.
type Cluster struct {
	Headless       string       // name that resolves to every pod
	Endpoints      string       // namespace/service whose endpoints are the pods
	Peers          []string     // host, host:port or [v6]:port
	Port           int          // 0: the default; see ClusterPort
	PodIPs         []netip.Addr // own addresses, at most one of each family; the first is announced
	ListenAddress  string       // "": the pod's own address
	Secret         string
	PreviousSecret string
	SecretFile     string
	FormerExposed  []string // addresses of the relay that other pods may still tell their peers
	Interval       time.Duration
	DNS            netip.AddrPort // name server to ask; zero: the system's
}

// Wanted reports whether there may be other pods.
func (c *Cluster) Wanted() bool {
	return c.Headless != "" || c.Endpoints != "" || len(c.Peers) > 0
}

// ClusterPort returns the port of the links between pods.
func (c *Cluster) ClusterPort() int {
	if c.Port == 0 { // so it is in existing deployments
		return defaultClusterPort
	}
	return c.Port
}

// Addresses returns the given peers, each as host:port.
func (c *Cluster) Addresses() []string {
	var all []string
	for _, peer := range c.Peers {
		host, port, _ := splitPeer(peer) // was right when it was set
		if port == "" {
			port = strconv.Itoa(c.ClusterPort())
		}
		all = append(all, net.JoinHostPort(host, port))
	}
	return all
}

// texts returns the secrets given as text, the one to prove with first. It is
// empty when they come from a file, or there are none.
func (c *Cluster) texts() []string { return withoutEmpty(c.Secret, c.PreviousSecret) }

// maxClusterSecrets is how many secrets a pod can tell another that it has.
const maxClusterSecrets = 8

// CheckClusterSecrets says which of the secrets that pods share is too short or
// ends in a blank, by its place and never by its text, and when there are too
// many.
func CheckClusterSecrets(secrets []string) error {
	if n := len(secrets); n > maxClusterSecrets {
		return fmt.Errorf("%d secrets: want at most %d at once", n, maxClusterSecrets)
	}
	for i, secret := range secrets {
		if err := checkClusterSecret(secret); err != nil {
			return fmt.Errorf("secret %d of %d %w", i+1, len(secrets), err)
		}
	}
	return nil
}

// checkClusterSecret says why pods do not share secret. The error reads on from
// the name of the secret. What a variable has at its ends by mistake would be
// missing in another pod's file, and the two would not link.
func checkClusterSecret(secret string) error {
	if edge := secrettext.Edge(secret); edge != "" {
		return errors.New(edge + ": want it without, exactly as every other pod has it")
	}
	if n := utf8.RuneCountInString(secret); n < MinClusterSecret {
		return fmt.Errorf("has %d characters: want at least %d; relay token --new-secret makes one", n, MinClusterSecret)
	}
	return secrettext.Check(secret)
}

// otherPods is the heading of these settings in the help.
const otherPods = "Other pods"

func (c *Cluster) settings(s *setting.Set) {
	s.Group(otherPods)
	s.Func("cluster-headless", "", "name that resolves to every pod, such as that of a headless Service; the pods become one relay", func(v string) error {
		if host, port, err := splitPeer(v); err != nil || port != "" {
			return errors.New("want one name, such as relay-pods or relay-pods.default.svc.cluster.local, without a port (--cluster-port)")
		} else if _, err := netip.ParseAddr(host); err == nil {
			return errors.New("want a name; addresses are what --cluster-peers is for")
		}
		c.Headless = v
		return nil
	}).Called("NAME")
	s.Func("cluster-endpoints", "", "Service of Kubernetes that has every pod: its endpoints are watched through the API, and the name of --cluster-headless, if given, is used while the API does not answer", func(v string) error {
		namespace, service, _ := strings.Cut(v, "/")
		if !isLabel(namespace) || !isLabel(service) {
			return errors.New("want NAMESPACE/SERVICE, such as default/relay-pods")
		}
		c.Endpoints = v
		return nil
	}).Called("NAMESPACE/SERVICE")
	s.List("cluster-peers", "", "list of the pods, in place of a name: host, host:port or [v6]:port; this pod may be among them", func(v string) error {
		_, _, err := splitPeer(v)
		if err == nil {
			c.Peers = append(c.Peers, v)
		}
		return err
	})
	s.Int(&c.Port, "cluster-port", defaultClusterPort, 0, 65535, "port of the links between pods; the same on all pods, unless --cluster-peers has other ports").Called("PORT")
	setting.Var(s, &c.PodIPs, "pod-ip", nil, "", "this pod's own address, at which the other pods reach it; for dual stack both addresses, with a comma between", parsePodIPs).Called("ADDRESS").AlsoVariable("POD_IP")
	s.String(&c.ListenAddress, "cluster-listen-address", "", "where to listen for other pods; the pod announces --pod-ip with the port given here").Called("ADDRESS")
	s.String(&c.Secret, "cluster-auth-secret", "", "secret that pods authenticate each other with, at least 32 characters; without it links are not authenticated").Called("SECRET").Secret()
	s.String(&c.PreviousSecret, "cluster-auth-secret-previous", "", "older secret that is still accepted, while some pods do not have the new one").Called("SECRET").Secret()
	s.String(&c.SecretFile, "cluster-auth-secret-file", "", "file with such secrets, one a line, the preferred one first; read again when it changes").Called("FILE")
	s.List("cluster-exposed-address-previous", "", "former --exposed-address of this relay, while it is being changed: pods that still have it can link", func(v string) error {
		c.FormerExposed = append(c.FormerExposed, v)
		return checkExposed(v)
	})
	s.Duration(&c.Interval, "cluster-interval", 10*time.Second, "how often the name is looked up and missing links are tried again")
	setting.Var(s, &c.DNS, "cluster-dns", netip.AddrPort{}, "", "name server that resolves the name of the pods, in place of the system's: an address, with or without a port", parseNameServer).Called("ADDRESS")
}

// maxFormerExposed is how many former addresses a pod can tell another of.
const maxFormerExposed = 8

// checkExposed says whether an --exposed-address can have been one, also of an
// earlier build that took more than this one.
func checkExposed(v string) error {
	text := v
	if !strings.Contains(v, "://") {
		text = "rel://" + v
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "rel" && u.Scheme != "rels" {
		return errors.New("want a former --exposed-address, such as relay.example.com:443 or rels://relay.example.com:443")
	}
	return nil
}

// isLabel reports whether v can be the name of a namespace or a Service: RFC 1123,
// section 2.1, in lower case.
func isLabel(v string) bool {
	other := func(c rune) bool { return (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' }
	return v != "" && len(v) <= 63 && v == strings.Trim(v, "-") && !strings.ContainsFunc(v, other)
}

// splitPeer splits host, host:port or [v6]:port; port is empty when there is
// none.
func splitPeer(peer string) (host, port string, err error) {
	wrong := errors.New("want hosts with or without a port, such as 10.0.0.1,relay-1.example.com:7090,[fd00::1]:7090")
	bare := peer
	if inner, ok := strings.CutPrefix(peer, "["); ok && strings.HasSuffix(inner, "]") {
		bare = strings.TrimSuffix(inner, "]")
	}
	if addr, err := netip.ParseAddr(bare); err == nil {
		return addr.String(), "", nil
	}
	host = peer
	if strings.Contains(peer, ":") {
		if host, port, err = net.SplitHostPort(peer); err != nil {
			return "", "", wrong
		}
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", "", wrong
		}
	}
	if _, err := netip.ParseAddr(host); err != nil && checkName(host) != nil {
		return "", "", wrong
	}
	return host, port, nil
}

func parsePodIPs(v string) (all []netip.Addr, err error) {
	wrong := errors.New("want this pod's own address, or one IPv4 and one IPv6 address with a comma between")
	for item := range strings.SplitSeq(v, ",") {
		addr, err := netip.ParseAddr(strings.TrimSpace(item))
		if err != nil || addr.IsUnspecified() || addr.IsMulticast() {
			return nil, wrong
		}
		all = append(all, addr.Unmap())
	}
	if len(all) > 2 || len(all) == 2 && all[0].Is4() == all[1].Is4() {
		return nil, wrong
	}
	return all, nil
}

func parseNameServer(v string) (netip.AddrPort, error) {
	const dnsPort = 53
	if addr, err := netip.ParseAddr(v); err == nil {
		return netip.AddrPortFrom(addr, dnsPort), nil
	}
	server, err := netip.ParseAddrPort(v)
	if err != nil || server.Port() == 0 {
		return netip.AddrPort{}, errors.New("want the address of a name server, such as 10.96.0.10 or 127.0.0.1:5353")
	}
	return server, nil
}

func (c *Cluster) check(p *problems) {
	if c.Headless != "" && len(c.Peers) > 0 {
		p.add("--cluster-headless and --cluster-peers are both given: want one of them: a name that resolves to every pod, or the list of pods")
	}
	if c.Endpoints != "" && len(c.Peers) > 0 {
		p.add("--cluster-endpoints and --cluster-peers are both given: want one of them: the Service that has every pod, or the list of pods")
	}
	if c.Wanted() && len(c.PodIPs) == 0 {
		p.add("--pod-ip (RELAY_POD_IP or POD_IP) is missing: want this pod's own address, at which the other pods reach it; in Kubernetes that is status.podIPs")
	}
	if n := len(c.FormerExposed); n > maxFormerExposed {
		p.add("--cluster-exposed-address-previous has %d addresses: want at most %d", n, maxFormerExposed)
	}
	if c.Interval < minClusterInterval {
		p.add("%s is %v: want at least %v", p.Source("cluster-interval"), c.Interval, minClusterInterval)
	}
	switch {
	case c.SecretFile != "" && c.Secret != "":
		p.add("--cluster-auth-secret and --cluster-auth-secret-file are both given: want one of them; the file may hold several secrets, one a line")
	case c.SecretFile != "" && c.PreviousSecret != "":
		p.add("--cluster-auth-secret-previous does not go with --cluster-auth-secret-file: want the previous secret as the file's second line")
	case c.PreviousSecret != "" && c.Secret == "":
		p.add("--cluster-auth-secret-previous is given without --cluster-auth-secret: want the secret that all pods share as well")
	}
	if !c.Wanted() {
		return // they are not used
	}
	for _, s := range []struct{ flag, value string }{
		{"cluster-auth-secret", c.Secret},
		{"cluster-auth-secret-previous", c.PreviousSecret},
	} {
		if s.value == "" {
			continue
		}
		if err := checkClusterSecret(s.value); err != nil {
			p.add("%s %w", p.Source(s.flag), err)
		}
	}
}

// clusterConfig returns how this pod joins the others; nil: it is alone. What
// fails here was set wrongly.
func (p *Pod) clusterConfig(files Files) (*relay.ClusterBootstrapConfig, error) {
	c := &p.cfg.Cluster
	if !c.Wanted() {
		return nil, nil
	}
	var ips []string
	for _, ip := range c.PodIPs {
		ips = append(ips, ip.String())
	}
	// A former address is what peers were told: with a scheme.
	scheme, _, _ := strings.Cut(p.relay.InstanceURL(), "://")
	var former []string
	for _, address := range c.FormerExposed {
		if !strings.Contains(address, "://") {
			address = scheme + "://" + address
		}
		former = append(former, address)
	}
	cfg := &relay.ClusterBootstrapConfig{
		Headless:        c.Headless,
		StaticPeers:     c.Addresses(),
		Port:            c.ClusterPort(),
		PodIP:           strings.Join(ips, ","),
		ListenAddress:   c.ListenAddress,
		InstanceURL:     p.relay.InstanceURL(),
		TokenSecrets:    files.tokens,
		FormerInstances: former,
		Interval:        c.Interval,
		Meter:           p.meter,
		Logger:          p.log.Logger,
	}
	if secrets := files.cluster; len(secrets) > 0 {
		cfg.AuthSecret, cfg.FurtherSecrets = secrets[0], secrets[1:]
	}
	if c.DNS.IsValid() && (c.Headless != "" || len(c.Peers) > 0) {
		resolver, err := cluster.NewResolver(*cfg, askAt(c.DNS.String()))
		if err != nil {
			return nil, err
		}
		cfg.Resolver = resolver
	}
	if c.Endpoints != "" {
		resolver, err := c.endpoints(*cfg)
		if err != nil {
			return nil, fmt.Errorf("--cluster-endpoints: %w", err)
		}
		cfg.Resolver = resolver
	}
	return cfg, nil
}

// endpoints returns what finds the endpoints of the Service, and asks for the name
// of cfg, if there is one, while the API of Kubernetes does not answer.
func (c *Cluster) endpoints(cfg relay.ClusterBootstrapConfig) (cluster.Resolver, error) {
	var ask endpointslices.Config
	ask.Namespace, ask.Service, _ = strings.Cut(c.Endpoints, "/")
	ask.Port = c.ClusterPort()
	if c.Headless != "" {
		names := cfg.Resolver
		if names == nil {
			var err error
			if names, err = cluster.NewResolver(cfg, nil); err != nil {
				return nil, err
			}
		}
		ask.Fallback = names.Resolve
	}
	return endpointslices.New(ask)
}

// askAt returns a resolver that asks the name server at address and no other.
func askAt(address string) *net.Resolver {
	var dialer net.Dialer
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	}}
}

// otherPods links the pod to the others and lets the relay reach their peers. It
// comes before the peers, and leaves after they have gone.
func (p *Pod) otherPods(files Files) (Part, error) {
	part := Part{Name: "other pods"}
	cfg, err := p.clusterConfig(files)
	if err != nil || cfg == nil {
		return part, err
	}
	part.Start = func(ctx context.Context) error {
		others, err := relay.StartCluster(ctx, p.relay.Store(), *cfg)
		if err != nil {
			return Indented("cannot listen", p.cfg.cannotListen("cluster", err))
		}
		p.others.Store(others)
		p.relay.SetCrossPodForwarder(others.Forwarder)
		return nil
	}
	if file := p.cfg.Cluster.SecretFile; file != "" {
		part.Serve = func(ctx context.Context) error {
			return auth.WatchCheckedSecretFile(ctx, file, p.log.Logger, CheckClusterSecrets, func(secrets []string) {
				if err := p.others.Load().SetSecrets(secrets...); err != nil {
					p.log.Warn("cluster secrets not usable, they stay as they are", "file", file, "err", err)
				}
			})
		}
	}
	part.Stop = func() {
		p.others.Load().Stop()
		p.log.Info("left the other pods")
	}
	return part, nil
}

package setting

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/crosspod/crosspod/internal/relayurl"
)

// Relay is what `relay start` is told. [NewRelay] makes one.
type Relay struct {
	ListenAddress  string
	ExposedAddress string
	TrustedProxies []netip.Prefix

	AuthSecret         string
	AuthSecretPrevious string
	AuthSecretFile     string
	RequireNamedTokens bool

	TLSCertFile           string
	TLSKeyFile            string
	LetsEncryptDataDir    string
	LetsEncryptDomains    []string
	LetsEncryptEmail      string
	LetsEncryptRoute53    bool
	LetsEncryptDirectory  string
	LetsEncryptCACertFile string

	MetricsPort          int
	MetricsListenAddress string
	HealthListenAddress  string
	OpsListenAddress     string
	OpsTokenFile         string
	Pprof                bool

	MaxPeers                   int
	MaxHalfOpen                int
	HandshakeTimeout           time.Duration
	HandshakeFailuresPerSecond float64
	MaxQueueBytes              int64
	MaxQueueMessages           int
	MaxTotalQueueBytes         int64 // 0: a quarter of the memory limit
	MaxSubscriptions           int
	MaxTotalSubscriptions      int     // 0: follows from the memory limit
	MaxMessagesPerSecond       float64 // 0: no limit
	MaxBytesPerSecond          float64 // 0: no limit
	StallTimeout               time.Duration
	HealthCheckMisses          int

	DrainDelay time.Duration
	DrainGrace time.Duration

	LogLevel           string
	LogFile            string
	LogFormat          string
	LogMaxSizeMB       int
	LogDisableRotation bool

	STUN         bool
	STUNPorts    []int
	STUNLogLevel string

	Cluster Cluster

	set *Set // that fills it
}

// Source is what has set the setting of that name: the flag, with dashes, or a
// variable. Of a default it is the flag.
func (r *Relay) Source(name string) string { return sourceOf(r.set.settings, name) }

// Secrets returns the secrets given as text: the first signs, all are accepted.
// It is empty when they come from a file.
func (r *Relay) Secrets() []string {
	if r.AuthSecret == "" {
		return nil
	}
	if r.AuthSecretPrevious == "" {
		return []string{r.AuthSecret}
	}
	return []string{r.AuthSecret, r.AuthSecretPrevious}
}

// TLS reports whether peers are served with a certificate.
func (r *Relay) TLS() bool { return r.TLSCertFile != "" || r.LetsEncrypt() }

// LetsEncrypt reports whether the certificate comes from an ACME directory.
func (r *Relay) LetsEncrypt() bool {
	return r.LetsEncryptDataDir != "" && len(r.LetsEncryptDomains) > 0
}

// MetricsAddress returns where metrics are served.
func (r *Relay) MetricsAddress() string {
	if r.MetricsListenAddress != "" {
		return r.MetricsListenAddress
	}
	return ":" + strconv.Itoa(r.MetricsPort)
}

// NewRelay returns a Relay that holds the defaults and the settings that fill
// it.
func NewRelay() (*Relay, *Set) {
	s := &Set{atOnce: true}
	r := &Relay{STUNPorts: []int{3478}, set: s}

	s.Group("Peers")
	s.String(&r.ListenAddress, "listen-address", ":443", "where to listen for peers").called("ADDRESS").Short("l")
	s.String(&r.ExposedAddress, "exposed-address", "", "where peers reach this relay, such as relay.example.com:443; the same on every pod, to the letter (required)").called("ADDRESS").Short("e")
	s.prefixes(&r.TrustedProxies, "trusted-proxies", "networks of reverse proxies whose X-Forwarded-For and X-Real-IP are believed, such as 10.0.0.0/8,192.0.2.7")

	s.Group("Secrets")
	s.String(&r.AuthSecret, "auth-secret", "", "what peers' tokens are signed with, one text, commas included (this or --auth-secret-file is required)").called("SECRET").Short("s").Secret()
	s.String(&r.AuthSecretPrevious, "auth-secret-previous", "", "a secret that is accepted too, while tokens signed with it are still about").called("SECRET").Secret()
	s.String(&r.AuthSecretFile, "auth-secret-file", "", "file with secrets, one a line: the first signs, all are accepted; read again when it changes").called("FILE")
	s.Bool(&r.RequireNamedTokens, "require-named-tokens", "accept only tokens that name their peer; clients of NetBird and openZro have none")

	s.Group("TLS")
	s.String(&r.TLSCertFile, "tls-cert-file", "", "file with the certificate chain, PEM; read again when it changes").called("FILE").Short("c")
	s.String(&r.TLSKeyFile, "tls-key-file", "", "file with its key, PEM").called("FILE").Short("k")
	s.String(&r.LetsEncryptDataDir, "letsencrypt-data-dir", "", "folder to keep Let's Encrypt certificates in, below letsencrypt/").called("FOLDER").Short("d")
	s.List("letsencrypt-domains", "", "domains to get certificates for; port 443 of each must reach this relay", func(v string) error {
		name, err := certifiable(v)
		if err == nil && !slices.Contains(r.LetsEncryptDomains, name) {
			r.LetsEncryptDomains = append(r.LetsEncryptDomains, name)
		}
		return err
	}).Short("a")
	s.Func("letsencrypt-email", "", "where Let's Encrypt may write to", func(v string) error {
		if at := strings.LastIndex(v, "@"); at < 1 || checkName(v[at+1:]) != nil || strings.ContainsAny(v, " <>,") {
			return errors.New("want one address such as ops@example.com")
		}
		r.LetsEncryptEmail = v
		return nil
	}).called("ADDRESS")
	s.Bool(&r.LetsEncryptRoute53, "letsencrypt-aws-route53", "not supported: this relay proves its domains on port 443")
	s.Func("letsencrypt-directory", "", "URL of another ACME directory than Let's Encrypt's", func(v string) error {
		u, err := url.Parse(v)
		if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
			return errors.New("want a URL such as https://acme.example.com/directory")
		}
		r.LetsEncryptDirectory = v
		return nil
	}).called("URL")
	s.String(&r.LetsEncryptCACertFile, "letsencrypt-ca-file", "", "file with the certificates that vouch for that directory, PEM").called("FILE")

	s.cluster(&r.Cluster)

	s.Group("Operators")
	s.Int(&r.MetricsPort, "metrics-port", 9090, 0, 65535, "port for /metrics, 0 for any free one")
	s.String(&r.MetricsListenAddress, "metrics-listen-address", "", "where /metrics is, in place of --metrics-port on every address").called("ADDRESS")
	s.String(&r.HealthListenAddress, "health-listen-address", ":9000", "where /health, /livez and /readyz are").called("ADDRESS").Short("H")
	s.String(&r.OpsListenAddress, "ops-listen-address", "127.0.0.1:9091", "where the cluster status, the log level and profiles are; other than loopback only with --ops-token-file").called("ADDRESS")
	s.String(&r.OpsTokenFile, "ops-token-file", "", "file with the bearer token that --ops-listen-address asks for").called("FILE")
	s.Bool(&r.Pprof, "pprof", "serve profiles there, at /debug/pprof/")

	s.Group("Limits")
	s.Int(&r.MaxPeers, "max-peers", 100_000, 0, math.MaxInt, "peers connected to this pod, 0 for no limit")
	s.Int(&r.MaxHalfOpen, "max-half-open", 4096, 1, math.MaxInt, "connections that have not proved themselves; one more closes the oldest")
	s.Duration(&r.HandshakeTimeout, "handshake-timeout", 10*time.Second, "from TCP accept to a good token")
	s.Rate(&r.HandshakeFailuresPerSecond, "max-handshake-failures", 10, "failed handshakes per second and source (IPv4 address, IPv6 /64) before it is refused, 0 for no limit")
	s.Size(&r.MaxQueueBytes, "max-queue-bytes", 512<<10, "", "bytes queued for one peer; above it its oldest data is dropped")
	s.Int(&r.MaxQueueMessages, "max-queue-messages", 1024, 1, math.MaxInt, "messages queued for one peer; above it its oldest data is dropped")
	s.Size(&r.MaxTotalQueueBytes, "max-total-queue-bytes", 0, "a quarter of the memory limit", "bytes queued for all peers and pods; above it the fullest queues drop first")
	s.Int(&r.MaxSubscriptions, "max-subscriptions", 10_000, 1, math.MaxInt, "peers one peer may ask to be told about")
	s.Int(&r.MaxTotalSubscriptions, "max-total-subscriptions", 0, 1, math.MaxInt, "the same for all peers together").Default = "one for each 4 KiB of the memory limit, at most 4000000"
	s.Rate(&r.MaxMessagesPerSecond, "max-peer-messages", 0, "messages per second from one peer, which is read more slowly above it, 0 for no limit")
	s.Rate(&r.MaxBytesPerSecond, "max-peer-bytes", 0, "bytes per second from one peer as a plain number, which is read more slowly above it, 0 for no limit")
	s.Duration(&r.StallTimeout, "stall-timeout", 10*time.Second, "a peer whose socket takes nothing for so long is closed")
	s.Int(&r.HealthCheckMisses, "health-check-misses", 1, 1, 1000, "periods of 45 s in a row without an answer to a health check, then a peer is closed").AlsoEnv("RELAY_HC_ATTEMPT_THRESHOLD", "HC_ATTEMPT_THRESHOLD")

	s.Group("Stopping")
	s.Duration(&r.DrainDelay, "drain-delay", 5*time.Second, "after SIGTERM, not ready but still serving, while the load balancer forgets this pod")
	s.Duration(&r.DrainGrace, "drain-grace", 30*time.Second, "after that, for peers to leave; then they are cut")

	s.Group("Logs")
	s.levels(&r.LogLevel, "log-level", "trace, debug, info, warn or error")
	r.LogFile, r.LogFormat = "console", "text"
	s.Func("log-file", "console", "console, syslog or a path", func(v string) error {
		if r.LogFile = v; isWord(v, "console", "syslog") {
			r.LogFile = strings.ToLower(v)
		}
		return nil
	}).called("PATH")
	s.Func("log-format", "text", "text or json", func(v string) error {
		if !isWord(v, "text", "json") {
			return errors.New("want text or json")
		}
		r.LogFormat = strings.ToLower(v)
		return nil
	}).called("FORMAT")
	s.Int(&r.LogMaxSizeMB, "log-max-size-mb", 15, 1, math.MaxInt>>20, "a log file of so many megabytes is put aside and compressed; 10 are kept, for 30 days")
	s.Bool(&r.LogDisableRotation, "log-disable-rotation", "leave a log file as it is")

	s.Group("Accepted, without effect")
	s.Bool(&r.STUN, "enable-stun", "this relay has no STUN server yet")
	s.List("stun-ports", "3478", "this relay has no STUN server yet", portAdder(&r.STUNPorts))
	s.levels(&r.STUNLogLevel, "stun-log-level", "this relay has no STUN server yet")
	return r, s
}

func (s *Set) prefixes(p *[]netip.Prefix, name, usage string) {
	s.Func(name, "", usage, func(v string) error {
		var all []netip.Prefix
		for item := range strings.SplitSeq(v, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			prefix, err := netip.ParsePrefix(item)
			if err != nil {
				addr, addrErr := netip.ParseAddr(item)
				if addrErr != nil || addr.Zone() != "" {
					return errors.New("want networks or addresses separated by commas, such as 10.0.0.0/8,192.0.2.7")
				}
				prefix = netip.PrefixFrom(addr, addr.BitLen())
			}
			all = append(all, prefix.Masked())
		}
		*p = all
		return nil
	}).called("LIST")
}

// isWord reports whether v is one of words, in upper or lower case.
func isWord(v string, words ...string) bool {
	return slices.ContainsFunc(words, func(word string) bool { return strings.EqualFold(v, word) })
}

// levels are the names of log levels that are accepted, NetBird's.
var levels = []string{"trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"}

func (s *Set) levels(p *string, name, usage string) {
	*p = "info"
	s.Func(name, "info", usage, func(v string) error {
		if !isWord(v, levels...) {
			return errors.New("want trace, debug, info, warn or error")
		}
		*p = strings.ToLower(v)
		return nil
	}).called("LEVEL")
}

func portAdder(ports *[]int) func(string) error {
	fresh := true
	return func(v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return errors.New("want ports from 1 to 65535, separated by commas")
		}
		if fresh { // the first one given replaces the default
			*ports, fresh = nil, false
		}
		*ports = append(*ports, int(n))
		return nil
	}
}

// Validate says all that is missing or does not go together.
func (r *Relay) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if r.ExposedAddress == "" {
		bad("--exposed-address (RELAY_EXPOSED_ADDRESS) is missing: want the address peers reach this relay at, such as relay.example.com:443")
	} else if u, err := relayurl.Parse(r.ExposedAddress); err != nil {
		bad("%s is not an address that peers can dial: %w", r.Source("exposed-address"), err) // without it: it may have a password
	} else if !u.TLS && r.TLS() {
		bad("%s is %q, which is plain TCP, and there is a certificate: want rels://", r.Source("exposed-address"), r.ExposedAddress)
	}
	switch {
	case r.AuthSecret == "" && r.AuthSecretFile == "":
		bad("--auth-secret (RELAY_AUTH_SECRET) or --auth-secret-file is missing: want the secret peers' tokens are signed with; relay token --new-secret makes one")
	case r.AuthSecret != "" && r.AuthSecretFile != "":
		bad("--auth-secret and --auth-secret-file are both given: want one of them; the file may hold several secrets, one a line")
	case r.AuthSecretPrevious != "" && r.AuthSecretFile != "":
		bad("--auth-secret-previous does not go with --auth-secret-file: want the previous secret as the file's second line")
	}
	r.checkListeners(bad)
	if r.OpsTokenFile == "" && !isLoopback(r.OpsListenAddress) {
		bad("%s is %q: want a loopback address, or --ops-token-file beside it", r.Source("ops-listen-address"), r.OpsListenAddress)
	}

	r.Cluster.validate(bad)
	if (r.TLSCertFile == "") != (r.TLSKeyFile == "") {
		bad("--tls-cert-file and --tls-key-file go together: want both or neither")
	}
	if (r.LetsEncryptDataDir == "") != (len(r.LetsEncryptDomains) == 0) {
		bad("--letsencrypt-data-dir and --letsencrypt-domains go together: want both or neither")
	}
	if r.LetsEncryptDirectory == "" {
		for _, name := range r.LetsEncryptDomains {
			if top := name[strings.LastIndex(name, ".")+1:]; slices.Contains(privateTops, top) {
				bad("%s has %q: Let's Encrypt gives no certificate for names below .%s, which are not those of the internet; want a public name, or a certificate made elsewhere (--tls-cert-file)", r.Source("letsencrypt-domains"), name, top)
			}
		}
	}
	if r.LetsEncryptRoute53 {
		bad("--letsencrypt-aws-route53 is not supported: this relay proves its domains on port 443 (--letsencrypt-data-dir and --letsencrypt-domains); or give it a certificate made elsewhere (--tls-cert-file), which it reads again when it changes")
	}
	if r.HandshakeTimeout == 0 {
		bad("%s is 0: want more, since what has no end can be held open by anyone", r.Source("handshake-timeout"))
	}
	if r.StallTimeout == 0 {
		bad("%s is 0: want more, since what has no end can be held open by anyone", r.Source("stall-timeout"))
	}
	if r.MaxQueueBytes < minQueueBytes {
		bad("%s is %d: want at least %d, room for a few of the largest messages", r.Source("max-queue-bytes"), r.MaxQueueBytes, minQueueBytes)
	}
	if n := r.MaxTotalQueueBytes; n != 0 && n < minTotalQueueBytes {
		bad("%s is %d: want at least %d, or 0 for a quarter of the memory limit", r.Source("max-total-queue-bytes"), n, minTotalQueueBytes)
	}
	return errors.Join(errs...)
}

// minTotalQueueBytes holds two full queues of the default size.
const minTotalQueueBytes = 1 << 20

// minQueueBytes holds a few messages of the largest size (8,820 bytes).
const minQueueBytes = 64 << 10

// Warnings says what is accepted and has no effect.
func (r *Relay) Warnings() []string {
	var all []string
	if r.STUN {
		all = append(all, "--enable-stun has no effect yet: this relay answers no STUN requests; its peers need another STUN server")
	}
	if r.LetsEncrypt() && r.TLSCertFile != "" {
		all = append(all, "--tls-cert-file has no effect beside --letsencrypt-domains")
	}
	return append(all, r.Cluster.warnings()...)
}

// A Listener is an address to listen at and the setting it comes from.
type Listener struct{ Name, Address string }

// Listeners returns where the relay listens: for peers, for operators and for other
// pods.
func (r *Relay) Listeners() []Listener {
	metrics := "metrics-listen-address"
	if r.MetricsListenAddress == "" {
		metrics = "metrics-port"
	}
	all := []Listener{
		{"listen-address", r.ListenAddress},
		{metrics, r.MetricsAddress()},
		{"health-listen-address", r.HealthListenAddress},
		{"ops-listen-address", r.OpsListenAddress},
	}
	c := &r.Cluster
	switch {
	case c.ListenAddress != "":
		all = append(all, Listener{"cluster-listen-address", c.ListenAddress})
	case c.Wanted():
		for _, ip := range c.PodIPs {
			all = append(all, Listener{"cluster-port", net.JoinHostPort(ip.String(), strconv.Itoa(c.ClusterPort()))})
		}
	}
	return all
}

// checkListeners hands to bad what cannot be listened at, and where two would.
func (r *Relay) checkListeners(bad func(format string, args ...any)) {
	all := r.Listeners()
	for i, l := range all {
		if err := checkListen(l.Address); err != nil {
			bad("%s is %q: %w", r.Source(l.Name), l.Address, err)
		}
		for _, other := range all[:i] {
			if overlap(l.Address, other.Address) {
				bad("%s is %q and %s is %q: want a port for each", r.Source(other.Name), other.Address, r.Source(l.Name), l.Address)
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

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true // said by checkListen
	}
	addr, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && addr.IsLoopback()
}

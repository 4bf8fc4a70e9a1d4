package pod

import (
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/internal/setting"
)

// read gives args and env to fresh Settings, as the command does.
func read(t *testing.T, args []string, env map[string]string) (*Settings, []string, error) {
	t.Helper()
	r, s := NewSettings()
	fs := flag.NewFlagSet("relay", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	for _, st := range s.All() {
		fs.Var(st, st.Name, st.Usage)
		if st.Letter != "" {
			fs.Var(st, st.Letter, st.Usage)
		}
	}
	if err := fs.Parse(args); err != nil {
		return r, nil, err
	}
	warnings, err := s.FromEnv(lookup(env))
	return r, warnings, err
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}
}

// The environment of an existing deployment, every name of the two relays.
func TestExistingEnvironments(t *testing.T) {
	common := map[string]string{
		"LISTEN_ADDRESS":             ":8443",
		"EXPOSED_ADDRESS":            "relay.example.com:443",
		"AUTH_SECRET":                "a,b,c,d,e,f,g,h,i",
		"METRICS_PORT":               "9191",
		"TLS_CERT_FILE":              "/tls/tls.crt",
		"TLS_KEY_FILE":               "/tls/tls.key",
		"LETSENCRYPT_DATA_DIR":       "/data",
		"LETSENCRYPT_DOMAINS":        "a.example.com,b.example.com",
		"LETSENCRYPT_EMAIL":          "ops@example.com",
		"LETSENCRYPT_AWS_ROUTE53":    "true",
		"LOG_LEVEL":                  "warning",
		"LOG_FILE":                   "/var/log/relay.log",
		"LOG_FORMAT":                 "json",
		"LOG_MAX_SIZE_MB":            "20",
		"RELAY_HC_ATTEMPT_THRESHOLD": "3",
	}
	netbird := map[string]string{
		"HEALTH_LISTEN_ADDRESS": ":9999",
		"TRUSTED_PROXIES":       "10.0.0.0/8, 2001:db8::1",
		"ENABLE_STUN":           "true",
		"STUN_PORTS":            "3479,3480",
		"STUN_LOG_LEVEL":        "debug",
		"LOG_DISABLE_ROTATION":  "true",
	}
	for _, prefix := range []string{"RELAY_", "NB_", "OZ_"} {
		t.Run(prefix, func(t *testing.T) {
			env := map[string]string{}
			for name, value := range common {
				env[prefix+name] = value
			}
			for name, value := range netbird {
				env[prefix+name] = value
			}
			got, warnings, err := read(t, nil, env)
			if err != nil || len(warnings) > 0 {
				t.Fatalf("err %v, warnings %q, want neither", err, warnings)
			}
			want, _ := NewSettings()
			want.ListenAddress = ":8443"
			want.ExposedAddress = "relay.example.com:443"
			want.AuthSecret = "a,b,c,d,e,f,g,h,i"
			want.MetricsPort = 9191
			want.TLSCertFile, want.TLSKeyFile = "/tls/tls.crt", "/tls/tls.key"
			want.ACME.DataDir = "/data"
			want.ACME.Domains = []string{"a.example.com", "b.example.com"}
			want.ACME.Email = "ops@example.com"
			want.Route53 = true
			want.Log.Level, want.Log.File, want.Log.Format = "warning", "/var/log/relay.log", "json"
			want.Log.MaxSizeMB, want.Log.DisableRotation = 20, true
			want.Limits.healthCheckMisses = 3
			want.HealthListenAddress = ":9999"
			want.STUN, want.STUNPorts, want.STUNLogLevel = true, []int{3479, 3480}, "debug"
			want.TrustedProxies = got.TrustedProxies
			want.set = got.set
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			var proxies []string
			for _, p := range got.TrustedProxies {
				proxies = append(proxies, p.String())
			}
			if want := []string{"10.0.0.0/8", "2001:db8::1/128"}; !slices.Equal(proxies, want) {
				t.Errorf("trusted proxies %q, want %q", proxies, want)
			}
		})
	}
}

func TestPrecedence(t *testing.T) {
	tests := []struct {
		name     string
		args     []string
		env      map[string]string
		get      func(*Settings) any
		want     any
		warnings []string // a part of each
	}{
		{name: "default", get: listen, want: ":443"},
		{name: "environment over default", env: map[string]string{"NB_LISTEN_ADDRESS": ":1"}, get: listen, want: ":1"},
		{name: "flag over environment", args: []string{"--listen-address", ":2"}, env: map[string]string{"RELAY_LISTEN_ADDRESS": ":1"}, get: listen, want: ":2"},
		{name: "short flag over environment", args: []string{"-l=:2"}, env: map[string]string{"RELAY_LISTEN_ADDRESS": ":1"}, get: listen, want: ":2"},
		{name: "the last flag", args: []string{"-l", ":2", "--listen-address", ":3"}, get: listen, want: ":3"},
		{name: "empty is unset", env: map[string]string{"RELAY_LISTEN_ADDRESS": "", "OZ_LISTEN_ADDRESS": ":1"}, get: listen, want: ":1"},
		{name: "ours over the aliases", env: map[string]string{"RELAY_LISTEN_ADDRESS": ":1", "NB_LISTEN_ADDRESS": ":2", "OZ_LISTEN_ADDRESS": ":1"}, get: listen, want: ":1",
			warnings: []string{"NB_LISTEN_ADDRESS is ignored: RELAY_LISTEN_ADDRESS is set"}},
		{name: "lists are combined", args: []string{"--letsencrypt-domains", "a.b,b.b", "-a", "c.b"}, env: map[string]string{"NB_LETSENCRYPT_DOMAINS": "d.b"},
			get: func(r *Settings) any { return strings.Join(r.ACME.Domains, " ") }, want: "a.b b.b c.b d.b"},
		{name: "list in place of its default", env: map[string]string{"NB_STUN_PORTS": "1,2"}, args: []string{"--stun-ports", "3"},
			get: func(r *Settings) any { return len(r.STUNPorts) }, want: 3},
		{name: "a switch may be turned off by flag", args: []string{"--enable-stun=false"}, env: map[string]string{"NB_ENABLE_STUN": "true"},
			get: func(r *Settings) any { return r.STUN }, want: false},
		{name: "a switch needs no value", args: []string{"--enable-stun"}, get: func(r *Settings) any { return r.STUN }, want: true},
		{name: "commas in a secret", args: []string{"--auth-secret", "a,b,c,d,e,f,g,h,i"}, get: func(r *Settings) any { return r.AuthSecret }, want: "a,b,c,d,e,f,g,h,i"},
		{name: "Kubernetes Service link", env: map[string]string{"RELAY_METRICS_PORT": "tcp://10.96.0.12:9090", "NB_METRICS_PORT": "9191"},
			get: func(r *Settings) any { return r.MetricsPort }, want: 9191, warnings: []string{"RELAY_METRICS_PORT=tcp://10.96.0.12:9090 is ignored"}},
		{name: "Kubernetes Service link, IPv6", env: map[string]string{"RELAY_METRICS_PORT": "udp://[fd00::1]:9090"},
			get: func(r *Settings) any { return r.MetricsPort }, want: 9090, warnings: []string{"RELAY_METRICS_PORT"}},
		{name: "other Service variables do not matter", env: map[string]string{"RELAY_PORT": "tcp://10.96.0.12:443", "RELAY_SERVICE_HOST": "10.96.0.12", "RELAY_PORT_443_TCP_ADDR": "10.96.0.12"},
			get: listen, want: ":443"},
		{name: "a scheme is not a Service link", env: map[string]string{"RELAY_EXPOSED_ADDRESS": "rels://relay.example.com:443"},
			get: func(r *Settings) any { return r.ExposedAddress }, want: "rels://relay.example.com:443"},
		{name: "metrics on every address", args: []string{"--metrics-port", "1"}, get: func(r *Settings) any { return r.MetricsAddress() }, want: ":1"},
		{name: "metrics on one address", args: []string{"--metrics-listen-address", "127.0.0.1:2"}, env: map[string]string{"NB_METRICS_PORT": "1"},
			get: func(r *Settings) any { return r.MetricsAddress() }, want: "127.0.0.1:2"},
		{name: "size", args: []string{"--max-queue-bytes", "1MiB"}, get: func(r *Settings) any { return r.Limits.QueueBytes }, want: 1 << 20},
		{name: "size in bytes", args: []string{"--max-queue-bytes", "70000"}, get: func(r *Settings) any { return r.Limits.QueueBytes }, want: 70000},
		{name: "time span", args: []string{"--drain-grace", "1m"}, get: func(r *Settings) any { return r.DrainGrace }, want: time.Minute},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, warnings, err := read(t, tt.args, tt.env)
			if err != nil {
				t.Fatal(err)
			}
			if got := tt.get(r); got != tt.want {
				t.Errorf("got %v, want %v", got, tt.want)
			}
			if len(warnings) != len(tt.warnings) {
				t.Fatalf("warnings %q, want %q", warnings, tt.warnings)
			}
			for i, w := range warnings {
				if !strings.Contains(w, tt.warnings[i]) {
					t.Errorf("warning %q, want it to say %q", w, tt.warnings[i])
				}
			}
		})
	}
}

func listen(r *Settings) any { return r.ListenAddress }

// Each wrong value is named, with what would be right.
func TestWrongValues(t *testing.T) {
	tests := []struct{ flag, value, want string }{
		{"metrics-port", "http", "want a whole number from 0 to 65535"},
		{"metrics-port", "70000", "want a whole number from 0 to 65535"},
		{"max-peers", "-1", "want a whole number, at least 0"},
		{"max-half-open", "0", "want a whole number, at least 1"},
		{"max-queue-bytes", "-1", "want a size"},
		{"max-queue-bytes", "9000000000GiB", "want a size"},
		{"max-queue-bytes", "1 MB", "want a size"},
		{"max-peer-messages", "-1", "want a number"},
		{"max-peer-messages", "NaN", "want a number"},
		{"drain-grace", "30", "want a time span"},
		{"drain-grace", "-1s", "want a time span"},
		{"log-level", "loud", "want trace, debug, info, warn or error"},
		{"log-format", "xml", "want text or json"},
		{"trusted-proxies", "10.0.0.0/8,proxy.example.com", "want networks or addresses"},
		{"stun-ports", "0", "want ports"},
		{"enable-stun", "maybe", "want true or false"},
		{"letsencrypt-email", "ops", "want one address"},
		{"letsencrypt-directory", "acme.example.com", "want a URL"},
		{"cluster-headless", "relay-pods:7090", "want one name"},
		{"cluster-headless", "relay pods", "want one name"},
		{"cluster-headless", "10.0.0.1", "want a name"},
		{"cluster-headless", "relay..pods", "want one name"},
	}
	for _, tt := range tests {
		t.Run(tt.flag+"="+tt.value, func(t *testing.T) {
			_, _, err := read(t, []string{"--" + tt.flag + "=" + tt.value}, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.flag) {
				t.Errorf("flag: %v, want it to say %q and %q", err, tt.flag, tt.want)
			}
			name := "NB_" + strings.ToUpper(strings.ReplaceAll(tt.flag, "-", "_"))
			_, _, err = read(t, nil, map[string]string{name: tt.value})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), name) {
				t.Errorf("environment: %v, want it to say %q and %q", err, name, tt.want)
			}
		})
	}
	_, _, err := read(t, nil, map[string]string{"NB_METRICS_PORT": "x", "NB_DRAIN_GRACE": "y"})
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("two wrong variables: %v, want both said", err)
	}
}

// What files of variables leave at the ends of a value is refused, of options and
// variables alike, and words are taken in upper and lower case.
func TestEndsAndWords(t *testing.T) {
	for _, tt := range []struct{ flag, value, want string }{
		{"cluster-headless", `"relay-pods"`, "want it without quotes around it"},
		{"cluster-headless", "'relay-pods'", "want it without quotes"},
		{"cluster-headless", "“relay-pods”", "want it without quotes"},
		{"listen-address", " 127.0.0.1:8081", "want it without blanks or line ends around it"},
		{"listen-address", "127.0.0.1:8081\r", "want it without blanks or line ends"},
		{"tls-cert-file", "/tls/tls.crt\n", "want it without blanks or line ends"},
		{"log-level", "info ", "want it without blanks"},
		{"letsencrypt-domains", `"a.example.com","b.example.com"`, "want it without quotes"},
		{"enable-stun", `"true"`, "want it without quotes"},
		{"exposed-address", `""`, "want it without quotes"},
		{"metrics-port", " ", "want it without blanks"},
	} {
		if _, _, err := read(t, []string{"--" + tt.flag + "=" + tt.value}, nil); err == nil || !strings.Contains(err.Error(), "--"+tt.flag+" is ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("--%s=%q: %v, want %q", tt.flag, tt.value, err, tt.want)
		}
		name := "OZ_" + strings.ToUpper(strings.ReplaceAll(tt.flag, "-", "_"))
		if _, _, err := read(t, nil, map[string]string{name: tt.value}); err == nil || !strings.Contains(err.Error(), name+" is ") || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s=%q: %v, want %q", name, tt.value, err, tt.want)
		}
	}
	r, _, err := read(t, []string{"--log-file=Console", "--log-format=JSON", "--log-level=Warn", "--enable-stun=TruE", "--max-queue-bytes=1mib", "--drain-grace=1M30S"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if r.Log.File != "console" || r.Log.Format != "json" || r.Log.Level != "warn" || !r.STUN || r.Limits.QueueBytes != 1<<20 || r.DrainGrace != 90*time.Second {
		t.Errorf("words in another case: %+v", r)
	}
	if r, _, err := read(t, []string{"--log-file=/var/log/Console"}, nil); err != nil || r.Log.File != "/var/log/Console" {
		t.Errorf("a path became %q, %v", r.Log.File, err)
	}
}

// All that is wrong is said at once, of options, variables, and both together.
func TestAllAtOnce(t *testing.T) {
	r, _, err := read(t, []string{"--metrics-port=http", "--max-peers=-1", "-l", "nowhere"}, map[string]string{"NB_DRAIN_GRACE": "soon", "RELAY_LOG_FORMAT": "xml", "RELAY_STALL_TIMEOUT": "0"})
	err = errors.Join(err, r.Validate())
	for _, want := range []string{`--metrics-port is "http"`, `--max-peers is "-1"`, `--listen-address is "nowhere"`, `NB_DRAIN_GRACE is "soon"`, `RELAY_LOG_FORMAT is "xml"`, "RELAY_STALL_TIMEOUT is 0", "--exposed-address (RELAY_EXPOSED_ADDRESS) is missing"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("it says\n%v\nwant also %s", err, want)
		}
	}
}

func TestUnknownVariables(t *testing.T) {
	_, s := NewSettings()
	got := s.Unknown([]string{
		"RELAY_EXPOZED_ADDRESS=r:443", "NB_LISTAN_ADDRESS=:443", "OZ_POD_IPS=10.0.0.1", "RELAY_AUTHSECRET=x", "NB_SETUP_KEY=x",
		"RELAY_LISTEN_ADDRESS=:443", "RELAY_RELAY_HC_ATTEMPT_THRESHOLD=1", "POD_IP=10.0.0.1", "RELAY_EMPTY=", "RELAY_TOKEN=t", "PATH=/bin",
		"RELAY_PORT=tcp://10.96.0.12:443", "RELAY_SERVICE_HOST=10.96.0.12", "RELAY_SERVICE_PORT=443", "RELAY_SERVICE_PORT_PEERS=443",
		"RELAY_PORT_443_TCP=tcp://10.96.0.12:443", "RELAY_PORT_443_TCP_PROTO=tcp", "RELAY_PORT_443_TCP_PORT=443", "RELAY_PORT_443_TCP_ADDR=10.96.0.12",
		"RELAY_PORT_7090_TCP=tcp://10.96.0.12:7090", "RELAY_METRICS_SERVICE_HOST=10.96.0.13",
	})
	want := []string{
		"NB_LISTAN_ADDRESS is no setting: is NB_LISTEN_ADDRESS meant?",
		"NB_SETUP_KEY is no setting: relay start --help lists them",
		"OZ_POD_IPS is no setting: is OZ_POD_IP meant?",
		"RELAY_AUTHSECRET is no setting: is RELAY_AUTH_SECRET meant?",
		"RELAY_EXPOZED_ADDRESS is no setting: is RELAY_EXPOSED_ADDRESS meant?",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestSecretIsNeverSaid(t *testing.T) {
	s := new(setting.Set)
	s.Func("token", "", "", func(string) error { return io.ErrUnexpectedEOF }).Secret()
	_, err := s.FromEnv(lookup(map[string]string{"RELAY_TOKEN": "hunter2"}))
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("err = %v, want one without the value", err)
	}
	// A secret that looks like what Kubernetes sets is named without its value too.
	s = new(setting.Set)
	var p string
	s.String(&p, "token", "", "").Secret()
	warnings, err := s.FromEnv(lookup(map[string]string{"RELAY_TOKEN": "tcp://10.0.0.1:443"}))
	if err != nil || p != "tcp://10.0.0.1:443" || len(warnings) > 0 {
		t.Errorf("secret = %q, warnings %q, err %v; want it taken as it is", p, warnings, err)
	}
}

func TestValidate(t *testing.T) {
	good := func(change ...string) []string {
		return append([]string{"-e", "relay.example.com:443", "-s", "secret"}, change...)
	}
	tests := []struct {
		name string
		args []string
		want []string // a part of each line; none means valid
	}{
		{name: "good", args: good()},
		{name: "secret from a file", args: []string{"-e", "r:443", "--auth-secret-file", "f"}},
		{name: "nothing given", want: []string{"--exposed-address (RELAY_EXPOSED_ADDRESS) is missing", "--auth-secret (RELAY_AUTH_SECRET) or --auth-secret-file is missing"}},
		{name: "both secrets", args: good("--auth-secret-file", "f"), want: []string{"want one of them"}},
		{name: "file and previous", args: []string{"-e", "r:443", "--auth-secret-file", "f", "--auth-secret-previous", "p"}, want: []string{"second line"}},
		{name: "listen address without port", args: good("-l", "127.0.0.1"), want: []string{`--listen-address is "127.0.0.1": want an address and a port`}},
		{name: "health address with a wrong port", args: good("-H", ":70000"), want: []string{"--health-listen-address"}},
		{name: "listen address with a host that is none", args: good("-l", "my host:443"), want: []string{"--listen-address"}},
		{name: "two listeners at one port", args: good("--metrics-port", "9000"), want: []string{`--metrics-port is ":9000" and --health-listen-address is ":9000": want a port for each`}},
		{name: "one port at two addresses", args: good("--metrics-listen-address", "127.0.0.1:9000", "-H", "127.0.0.2:9000")},
		{name: "any port twice", args: good("-l", "127.0.0.1:0", "-H", "127.0.0.1:0")},
		{name: "the port of other pods", args: good("--cluster-peers", "a", "--pod-ip", "10.0.0.1", "--metrics-port", "7090"), want: []string{"--cluster-port"}},
		{name: "exposed address that no peer can dial", args: []string{"-s", "secret", "-e", "rels://r?x=1"}, want: []string{"--exposed-address is not an address that peers can dial: a relay address has no query"}},
		{name: "exposed address that is plain", args: good("-c", "c", "-k", "k", "-e", "rel://r"), want: []string{"want rels://"}},
		{name: "operations for everybody", args: good("--ops-listen-address", ":9091"), want: []string{"--ops-token-file"}},
		{name: "operations by name", args: good("--ops-listen-address", "ops.internal:9091"), want: []string{"--ops-token-file"}},
		{name: "operations with a token", args: good("--ops-listen-address", ":9091", "--ops-token-file", "f")},
		{name: "operations on loopback", args: good("--ops-listen-address", "[::1]:9091")},
		{name: "certificate without key", args: good("-c", "f"), want: []string{"--tls-cert-file and --tls-key-file go together"}},
		{name: "domains without folder", args: good("-a", "relay.example.com"), want: []string{"--letsencrypt-data-dir and --letsencrypt-domains go together"}},
		{name: "Route 53", args: good("--letsencrypt-aws-route53"), want: []string{"--letsencrypt-aws-route53 is not supported"}},
		{name: "no handshake timeout", args: good("--handshake-timeout", "0"), want: []string{"--handshake-timeout is 0"}},
		{name: "no stall timeout", args: good("--stall-timeout", "0s"), want: []string{"--stall-timeout is 0"}},
		{name: "failures without limit", args: good("--max-handshake-failures", "0")},
		{name: "one failure in ten seconds", args: good("--max-handshake-failures", "0.1")},
		{name: "tiny queues", args: good("--max-total-queue-bytes", "1KiB"), want: []string{"--max-total-queue-bytes is 1024"}},
		{name: "tiny queue", args: good("--max-queue-bytes", "1KiB"), want: []string{"--max-queue-bytes is 1024"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _, err := read(t, tt.args, nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := r.Validate(); err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if len(got) != len(tt.want) {
				t.Fatalf("Validate said %q, want %q", got, tt.want)
			}
			for i := range got {
				if !strings.Contains(got[i], tt.want[i]) {
					t.Errorf("Validate said %q, want %q", got[i], tt.want[i])
				}
			}
		})
	}
}

func TestWarnings(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want int
	}{
		{name: "none"},
		{name: "STUN, once", args: []string{"--enable-stun", "--stun-ports=1,2", "--stun-log-level=debug"}, want: 1},
		{name: "pods", args: []string{"--cluster-headless=relay", "--cluster-port=7090", "--pod-ip=10.0.0.1", "--cluster-auth-secret=s"}},
		{name: "a pod that knows where it is", args: []string{"--cluster-port=7090", "--pod-ip=10.0.0.1"}, want: 1},
		{name: "secret for no pod", args: []string{"--cluster-auth-secret=s"}, want: 1},
		{name: "two certificates", args: []string{"-c", "c", "-k", "k", "-d", "d", "-a", "a.b"}, want: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, _, err := read(t, tt.args, nil)
			if err != nil {
				t.Fatal(err)
			}
			if got := r.Warnings(); len(got) != tt.want {
				t.Errorf("warnings %q, want %d", got, tt.want)
			}
		})
	}
}

// A secret that is probably not the one that was meant is named by where it comes
// from, and taken as it is.
func TestOddSecrets(t *testing.T) {
	const long = "a secret that is long enough"
	tests := []struct {
		name, secret string
		want         []string // a part of each warning
	}{
		{"good", long, nil},
		{"spaces and commas within", "two words, and more of them", nil},
		{"LF", long + "\n", []string{"ends in a line end"}},
		{"CRLF", long + "\r\n", []string{"ends in a line end"}},
		{"space at the end", long + " ", []string{"ends in a blank"}},
		{"tab at the end", long + "\t", []string{"ends in a blank"}},
		{"space at the beginning", " " + long, []string{"begins with a blank"}},
		{"quotes", `"` + long + `"`, []string{"stands in quotes"}},
		{"two lines", long + "\n" + long, []string{"has a line end in the middle"}},
		{"byte order mark", "\ufeff" + long, []string{"has a byte order mark"}},
		{"short", "hunter2", []string{"has 7 characters: want at least 16"}},
		{"short with a line end", "hunter2\n", []string{"ends in a line end", "has 7 characters"}},
		{"short for what is left of it", "hunter2" + strings.Repeat(" ", 20), []string{"ends in a blank", "has 7 characters"}},
	}
	for _, tt := range tests {
		for _, name := range []string{"RELAY_AUTH_SECRET", "NB_AUTH_SECRET", "OZ_AUTH_SECRET_PREVIOUS", "--auth-secret"} {
			t.Run(tt.name+", "+name, func(t *testing.T) {
				env, args := map[string]string{name: tt.secret}, []string(nil)
				switch {
				case strings.HasPrefix(name, "--"):
					env, args = nil, []string{name, tt.secret}
				case strings.HasSuffix(name, "PREVIOUS"):
					env["OZ_AUTH_SECRET"] = long
				}
				r, got, err := read(t, args, env)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Contains(r.texts(), tt.secret) {
					t.Errorf("secrets are %q, want %q as it is", r.texts(), tt.secret)
				}
				if len(got) != len(tt.want) {
					t.Fatalf("warnings %q, want %q", got, tt.want)
				}
				for i, w := range got {
					if !strings.HasPrefix(w, name+" "+tt.want[i]) || strings.Contains(w, "hunter2") || strings.Contains(w, long) {
						t.Errorf("warning %q, want %s %s, and not the secret", w, name, tt.want[i])
					}
				}
			})
		}
	}
}

func TestSecrets(t *testing.T) {
	for _, tt := range []struct {
		s    Secrets
		want []string
	}{
		{Secrets{AuthSecret: "a"}, []string{"a"}},
		{Secrets{AuthSecret: "a", AuthSecretPrevious: "b"}, []string{"a", "b"}},
		{Secrets{AuthSecretFile: "f"}, nil},
	} {
		if got := tt.s.texts(); !slices.Equal(got, tt.want) {
			t.Errorf("texts of %+v = %q, want %q", tt.s, got, tt.want)
		}
	}
}

// Every default that the help shows is the value when the setting is not given.
func TestDefaultsAsShown(t *testing.T) {
	want, s := NewSettings()
	for _, st := range s.All() {
		if st.IsBoolFlag() || st.Default == "" || strings.Contains(st.Default, " ") {
			continue
		}
		got, again := NewSettings()
		want.set = got.set
		i := slices.IndexFunc(again.All(), func(o *setting.Setting) bool { return o.Name == st.Name })
		if err := again.All()[i].Set(st.Default); err != nil {
			t.Errorf("--%s does not take its own default %q: %v", st.Name, st.Default, err)
		} else if !reflect.DeepEqual(got, want) {
			t.Errorf("--%s=%s changes something", st.Name, st.Default)
		}
	}
}

func TestNamesOnce(t *testing.T) {
	_, s := NewSettings()
	seen := map[string]string{}
	for _, st := range s.All() {
		names := append([]string{st.Name}, st.EnvNames()...)
		if st.Letter != "" {
			names = append(names, st.Letter)
		}
		for _, n := range names {
			if other, ok := seen[n]; ok {
				t.Errorf("%s belongs to --%s and --%s", n, other, st.Name)
			}
			seen[n] = st.Name
		}
		if st.Usage == "" || st.Group == "" {
			t.Errorf("--%s has no usage or no group", st.Name)
		}
	}
}

// The operators' page lists every setting with its default.
func TestDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, s := NewSettings()
	for _, st := range s.All() {
		name := "`--" + st.Name + "`"
		if st.Letter != "" {
			name += ", `-" + st.Letter + "`"
		}
		def := st.Default
		if def != "" && !strings.Contains(def, " ") {
			def = "`" + def + "`"
		}
		if row := "| " + name + " | " + def + " | " + st.Usage + " |"; !strings.Contains(string(page), row) {
			t.Errorf("docs/operations.md has no row %q", row)
		}
	}
}

package pod

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

const podSecret = "thirty-two characters, and so on" // 32

// The environment of openZro's pods.
func TestExistingPods(t *testing.T) {
	r, warnings, err := read(t, nil, map[string]string{
		"OZ_EXPOSED_ADDRESS": "relay.example.com:443", "OZ_AUTH_SECRET": "of sixteen or so",
		"OZ_CLUSTER_HEADLESS": "relay-pods", "OZ_CLUSTER_PORT": "0", "OZ_POD_IP": "10.0.0.1", "OZ_CLUSTER_AUTH_SECRET": podSecret,
	})
	if err != nil || len(warnings) > 0 || len(r.Warnings()) > 0 {
		t.Fatalf("err %v, warnings %q %q, want neither", err, warnings, r.Warnings())
	}
	if err := r.Validate(); err != nil {
		t.Fatal(err)
	}
	c := r.Cluster
	if !c.Wanted() || c.Headless != "relay-pods" || c.ClusterPort() != 7090 || !slices.Equal(c.PodIPs, addresses("10.0.0.1")) || !slices.Equal(c.texts(), []string{podSecret}) {
		t.Errorf("got %+v", c)
	}
}

func addresses(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

func TestPodIP(t *testing.T) {
	tests := []struct {
		name  string
		value string
		want  []netip.Addr // nil: wrong
	}{
		{"IPv4", "10.0.0.1", addresses("10.0.0.1")},
		{"IPv6", "fd00::1", addresses("fd00::1")},
		{"both", "10.0.0.1,fd00::1", addresses("10.0.0.1", "fd00::1")},
		{"both, IPv6 first, with a space", "fd00::1, 10.0.0.1", addresses("fd00::1", "10.0.0.1")},
		{"IPv4 in IPv6", "::ffff:10.0.0.1", addresses("10.0.0.1")},
		{"two of a family", "10.0.0.1,10.0.0.2", nil},
		{"three", "10.0.0.1,fd00::1,10.0.0.2", nil},
		{"a name", "relay-0", nil},
		{"a port", "10.0.0.1:7090", nil},
		{"every address", "0.0.0.0", nil},
		{"nothing beside one", "10.0.0.1,", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _, err := read(t, nil, map[string]string{"POD_IP": tt.value})
			if (err == nil) != (tt.want != nil) || err == nil && !slices.Equal(r.Cluster.PodIPs, tt.want) {
				t.Errorf("POD_IP=%s gives %v, %v; want %v", tt.value, r.Cluster.PodIPs, err, tt.want)
			}
			if err != nil && !strings.Contains(err.Error(), "POD_IP") {
				t.Errorf("error %q does not name POD_IP", err)
			}
		})
	}
	r, _, err := read(t, nil, map[string]string{"POD_IP": "10.0.0.1", "RELAY_POD_IP": "10.0.0.2"})
	if err != nil || !slices.Equal(r.Cluster.PodIPs, addresses("10.0.0.2")) {
		t.Errorf("with both variables %v, %v; want ours", r.Cluster.PodIPs, err)
	}
}

func TestClusterPeers(t *testing.T) {
	tests := []struct {
		value string
		want  []string // nil: wrong
	}{
		{"10.0.0.1", []string{"10.0.0.1:7000"}},
		{"10.0.0.1,relay-1:7091, relay-2.example.com", []string{"10.0.0.1:7000", "relay-1:7091", "relay-2.example.com:7000"}},
		{"[fd00::1]:7091", []string{"[fd00::1]:7091"}},
		{"fd00::1,[fd00::2]", []string{"[fd00::1]:7000", "[fd00::2]:7000"}},
		{"relay-1:", nil},
		{"relay-1:0", nil},
		{"relay-1:http", nil},
		{":7090", nil},
		{"fd00::1:7090:", nil},
		{"http://relay-1", nil},
		{"[relay-1", nil},
		{"relay 1", nil},
		{"a;b", nil},
		{"relay-1,a;b", nil},
		{"relay_1", []string{"relay_1:7000"}},
		{"[fe80::1%eth0]:7091", []string{"[fe80::1%eth0]:7091"}},
	}
	for _, tt := range tests {
		t.Run(tt.value, func(t *testing.T) {
			r, _, err := read(t, []string{"--cluster-peers", tt.value, "--cluster-port", "7000"}, nil)
			if tt.want == nil {
				if err == nil || !strings.Contains(err.Error(), "want hosts") {
					t.Errorf("err = %v, want what would be right", err)
				}
				return
			}
			if err != nil || !slices.Equal(r.Cluster.Addresses(), tt.want) {
				t.Errorf("addresses %q, %v; want %q", r.Cluster.Addresses(), err, tt.want)
			}
		})
	}
}

func TestClusterEndpoints(t *testing.T) {
	for value, right := range map[string]bool{
		"default/relay-pods": true, "prod-1/r": true,
		"relay-pods": false, "/relay-pods": false, "default/": false, "a/b/c": false, "Default/relay": false,
		"default/relay.pods": false, "-a/b": false, "default/relay pods": false, "default/" + strings.Repeat("a", 64): false,
	} {
		r, _, err := read(t, []string{"--cluster-endpoints", value}, nil)
		if (err == nil) != right || right && r.Cluster.Endpoints != value {
			t.Errorf("--cluster-endpoints %s: %v", value, err)
		}
		if err != nil && !strings.Contains(err.Error(), "want NAMESPACE/SERVICE") {
			t.Errorf("--cluster-endpoints %s: %v", value, err)
		}
	}
}

func TestWhichClusterPeer(t *testing.T) {
	for value, want := range map[string]string{
		"127.0.0.1:abc,:7090": `"127.0.0.1:abc" in it is wrong: want hosts`,
		"relay-1, a;b":        `"a;b" in it is wrong: want hosts`,
		"a;b":                 `--cluster-peers is "a;b": want hosts`,
	} {
		if _, _, err := read(t, []string{"--cluster-peers", value}, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--cluster-peers %s: %v, want it to say %s", value, err, want)
		}
	}
}

// What has no effect for want of other pods is named as it was given.
func TestIdleClusterSettings(t *testing.T) {
	tests := []struct {
		name string
		args []string
		env  map[string]string
		want string // "": no warning
	}{
		{"nothing", nil, nil, ""},
		{"address", []string{"--pod-ip", "10.0.0.1"}, nil, "--pod-ip has no effect without"},
		{"port", nil, map[string]string{"OZ_CLUSTER_PORT": "7090"}, "OZ_CLUSTER_PORT has no effect"},
		{"several", []string{"--cluster-auth-secret", "s"}, map[string]string{"POD_IP": "10.0.0.1"}, "POD_IP, --cluster-auth-secret have no effect"},
		{"other pods", []string{"--pod-ip", "10.0.0.1", "--cluster-headless", "relay"}, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _, err := read(t, tt.args, tt.env)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(r.Warnings(), "\n")
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("warnings %q, want %q", got, tt.want)
			}
		})
	}
}

func TestShortClusterSecretOfTheEnvironment(t *testing.T) {
	for _, name := range []string{"RELAY_CLUSTER_AUTH_SECRET", "OZ_CLUSTER_AUTH_SECRET"} {
		r, _, err := read(t, nil, map[string]string{
			"OZ_EXPOSED_ADDRESS": "relay.example.com:443", "OZ_AUTH_SECRET": "s", "OZ_CLUSTER_HEADLESS": "relay-pods", "OZ_POD_IP": "10.0.0.1", name: podSecret[1:],
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Validate(); err == nil || !strings.HasPrefix(err.Error(), name+" has 31 characters") {
			t.Errorf("%s too short: %v", name, err)
		}
	}
}

func TestClusterDNS(t *testing.T) {
	for value, want := range map[string]string{
		"10.96.0.10": "10.96.0.10:53", "127.0.0.1:5353": "127.0.0.1:5353", "fd00::10": "[fd00::10]:53", "[fd00::10]:5353": "[fd00::10]:5353",
		"dns.example.com": "", "127.0.0.1:0": "", ":53": "",
	} {
		r, _, err := read(t, []string{"--cluster-dns", value}, nil)
		if want == "" {
			if err == nil || !strings.Contains(err.Error(), "want the address of a name server") {
				t.Errorf("%s: err = %v", value, err)
			}
		} else if err != nil || r.Cluster.DNS.String() != want {
			t.Errorf("%s gives %v, %v; want %s", value, r.Cluster.DNS, err, want)
		}
	}
}

func TestValidateCluster(t *testing.T) {
	long, short := "--cluster-auth-secret="+podSecret, "--cluster-auth-secret="+podSecret[1:]
	tests := []struct {
		name string
		args []string
		want []string // a part of each line; none means valid
	}{
		{name: "name", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1", long}},
		{name: "list", args: []string{"--cluster-peers", "relay-1", "--pod-ip", "10.0.0.1", long}},
		{name: "without a secret", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1"}},
		{name: "secrets in a file", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1", "--cluster-auth-secret-file", "f"}},
		{name: "endpoints", args: []string{"--cluster-endpoints", "default/relay", "--pod-ip", "10.0.0.1", long}},
		{name: "endpoints and name", args: []string{"--cluster-endpoints", "default/relay", "--cluster-headless", "relay", "--pod-ip", "10.0.0.1", long}},
		{name: "endpoints and list", args: []string{"--cluster-endpoints", "default/relay", "--cluster-peers", "relay-1", "--pod-ip", "10.0.0.1"}, want: []string{"want one of them"}},
		{name: "endpoints without an address", args: []string{"--cluster-endpoints", "default/relay"}, want: []string{"--pod-ip"}},
		{name: "both ways to find pods", args: []string{"--cluster-headless", "relay", "--cluster-peers", "relay-1", "--pod-ip", "10.0.0.1"}, want: []string{"want one of them"}},
		{name: "no address of its own", args: []string{"--cluster-headless", "relay"}, want: []string{"--pod-ip (RELAY_POD_IP or POD_IP) is missing"}},
		{name: "no address of its own, list", args: []string{"--cluster-peers", "relay-1"}, want: []string{"status.podIPs"}},
		{name: "a listen address without port", args: []string{"--cluster-listen-address", "10.0.0.1"}, want: []string{"--cluster-listen-address is"}},
		{name: "hammering", args: []string{"--cluster-interval", "10ms"}, want: []string{"--cluster-interval is 10ms: want at least 1s"}},
		{name: "secret twice", args: []string{long, "--cluster-auth-secret-file", "f"}, want: []string{"want one of them"}},
		{name: "previous beside the file", args: []string{"--cluster-auth-secret-previous", podSecret, "--cluster-auth-secret-file", "f"}, want: []string{"second line"}},
		{name: "previous alone", args: []string{"--cluster-auth-secret-previous", podSecret}, want: []string{"given without --cluster-auth-secret"}},
		{name: "short", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1", short}, want: []string{"--cluster-auth-secret has 31 characters: want at least 32"}},
		{name: "short previous", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1", long, "--cluster-auth-secret-previous", "s"}, want: []string{"--cluster-auth-secret-previous has 1 characters"}},
		{name: "line end", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1", long + "\n"}, want: []string{"--cluster-auth-secret ends in a line end: want it without"}},
		{name: "blank in the previous", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1", long, "--cluster-auth-secret-previous", podSecret + " "}, want: []string{"--cluster-auth-secret-previous ends in a blank"}},
		{name: "tab before", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1", "--cluster-auth-secret=\t" + podSecret}, want: []string{"begins with a blank"}},
		{name: "NUL", args: []string{"--cluster-headless", "relay", "--pod-ip", "10.0.0.1", "--cluster-auth-secret=a\x00" + podSecret}, want: []string{"--cluster-auth-secret has a NUL byte"}},
		{name: "short and of no use", args: []string{short}},
		{name: "all at once", args: []string{"--cluster-headless", "relay", short}, want: []string{"--pod-ip", "31 characters"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, _, err := read(t, append([]string{"-e", "relay.example.com:443", "-s", "secret"}, tt.args...), nil)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			if err := r.Validate(); err != nil {
				if strings.Contains(err.Error(), podSecret[1:]) {
					t.Errorf("Validate says the secret: %v", err)
				}
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

func TestCheckClusterSecrets(t *testing.T) {
	if err := CheckClusterSecrets([]string{podSecret, strings.Repeat("ü", MinClusterSecret)}); err != nil {
		t.Error(err)
	}
	err := CheckClusterSecrets([]string{podSecret, "hunter2"})
	if err == nil || !strings.Contains(err.Error(), "secret 2 of 2 has 7 characters") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("err = %v", err)
	}
}

func TestClusterSecretOfAFileThatEndsInABlank(t *testing.T) {
	if err := CheckClusterSecrets([]string{podSecret, podSecret + " "}); err == nil || !strings.Contains(err.Error(), "secret 2 of 2 ends in a blank") {
		t.Errorf("err = %v", err)
	}
}

func TestTooManyClusterSecrets(t *testing.T) {
	many := slices.Repeat([]string{podSecret}, 8)
	if err := CheckClusterSecrets(many); err != nil {
		t.Error(err)
	}
	if err := CheckClusterSecrets(append(many, podSecret)); err == nil || !strings.Contains(err.Error(), "at most 8") {
		t.Errorf("9 secrets: %v", err)
	}
}

func TestClusterDefaults(t *testing.T) {
	r, _ := NewSettings()
	if c := r.Cluster; c.Wanted() || c.ClusterPort() != 7090 || c.Interval != 10*time.Second || len(c.texts()) > 0 || c.DNS.IsValid() {
		t.Errorf("by default %+v", c)
	}
}

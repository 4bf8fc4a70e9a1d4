package handshake

import (
	"context"
	"errors"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/test/memnet"
)

const (
	oldSecret = "the old secret of the cluster, long enough"
	newSecret = "the new secret of the cluster, long enough"
	latency   = 10 * time.Millisecond
)

func ring(t testing.TB, secrets ...string) *KeyRing {
	t.Helper()
	r, err := NewKeyRing(secrets...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// pod returns a pod with this host name and the secrets; change may alter what
// it says.
func pod(t testing.TB, name string, secrets []string, change ...func(*Config)) *Pod {
	t.Helper()
	c := Config{Address: name + ":7090", Incarnation: uint64(name[0]), Keys: ring(t, secrets...), Build: "test"}
	for _, f := range change {
		f(&c)
	}
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var secret = []string{oldSecret}

func pipe() (a, b net.Conn) { return memnet.Pipe(memnet.Config{Latency: latency}) }

// meet has the two pods shake hands over conns of their own.
func meet(t testing.TB, dialer, acceptor *Pod) (d, a *Conn, dialErr, acceptErr error) {
	t.Helper()
	left, right := pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		a, acceptErr = acceptor.Accept(t.Context(), right)
	}()
	d, dialErr = dialer.Dial(t.Context(), left)
	<-done
	for _, c := range []*Conn{d, a} {
		if c != nil {
			t.Cleanup(func() { c.TLS.Close() })
		}
	}
	return d, a, dialErr, acceptErr
}

// reason returns why a handshake failed, "" when it did not.
func reason(t testing.TB, err error) Reason {
	t.Helper()
	if err == nil {
		return ""
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || !slices.Contains(Reasons(), e.Reason) {
		t.Fatalf("%v (%T) is no error of a handshake", err, err)
	}
	for _, s := range []string{oldSecret, newSecret} {
		if strings.Contains(err.Error(), s) {
			t.Fatalf("a secret in %q", err)
		}
	}
	return e.Reason
}

func want(t testing.TB, who string, err error, want Reason) {
	t.Helper()
	if got := reason(t, err); got != want {
		t.Errorf("%s: %v, want reason %q", who, err, want)
	}
}

func TestLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		d, a, err1, err2 := meet(t,
			pod(t, "left", secret, func(c *Config) {
				c.Clock = func() uint64 { return 1000 }
				c.Have = func(wire.PodID) uint64 { return 7 }
			}),
			pod(t, "right", secret, func(c *Config) {
				c.Clock = func() uint64 { return 2000 }
				c.Have = func(p wire.PodID) uint64 {
					if p != wire.NewPodID("left:7090", 'l') {
						t.Errorf("asked for the session with %v", p)
					}
					return 8
				}
			}))
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 6*latency {
			t.Errorf("took %v, want three round trips", took)
		}
		key := newKey(oldSecret).id
		for _, tt := range []struct {
			name string
			got  *Conn
			want Conn
		}{
			{"dialer", d, Conn{Role: Dialer, Pod: wire.NewPodID("right:7090", 'r'), Ahead: 1000, Have: 8}},
			{"acceptor", a, Conn{Role: Acceptor, Pod: wire.NewPodID("left:7090", 'l'), Ahead: -1000, Have: 7}},
		} {
			tt.want.Version, tt.want.Signed, tt.want.Key = wire.Version, true, key
			tt.want.TLS, tt.want.Below, tt.want.Hello = tt.got.TLS, tt.got.Below, tt.got.Hello
			tt.want.own, tt.want.key = tt.got.own, tt.got.key
			if !reflect.DeepEqual(*tt.got, tt.want) {
				t.Errorf("%s has %+v, want %+v", tt.name, *tt.got, tt.want)
			}
		}
		if d.Hello.Clock != 2000 || a.Hello.Clock != 1000 || a.Hello.Address != "left:7090" || a.Hello.Build != "test" {
			t.Errorf("HELLOs %+v and %+v", d.Hello, a.Hello)
		}
		if s := d.TLS.ConnectionState(); s.Version != 0x304 {
			t.Errorf("TLS version %x", s.Version)
		}
	})
}

// TestNothingLost: the acceptor, which is done first, may send at once. The dialer finds
// those bytes after the PROOF; no deadline is left.
func TestNothingLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := pipe()
		dialer, acceptor := pod(t, "left", secret), pod(t, "right", secret)
		go func() {
			c, err := acceptor.Accept(t.Context(), right)
			if err != nil {
				t.Error(err)
				return
			}
			c.TLS.Write([]byte("first"))
			time.Sleep(time.Minute)
			c.TLS.Write([]byte("later"))
			c.TLS.Close()
		}()
		c, err := dialer.Dial(t.Context(), left)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		c.Below.Gather(c.TLS)
		if got, err := io.ReadAll(c.TLS); err != nil || string(got) != "firstlater" {
			t.Errorf("read %q, %v", got, err)
		}
		left.Close()
	})
}

func TestSecrets(t *testing.T) {
	tests := []struct {
		name             string
		dialer, acceptor []string
		dial, accept     Reason
		key              string
	}{
		{"the same", []string{oldSecret}, []string{oldSecret}, "", "", oldSecret},
		{"none", nil, nil, "", "", ""},
		{"dialer has the new one", []string{newSecret, oldSecret}, []string{oldSecret}, "", "", oldSecret},
		{"acceptor has the new one", []string{oldSecret}, []string{newSecret, oldSecret}, "", "", oldSecret},
		{"both have both", []string{newSecret, oldSecret}, []string{oldSecret, newSecret}, "", "", newSecret},
		{"both have both, the other dials", []string{oldSecret, newSecret}, []string{newSecret, oldSecret}, "", "", oldSecret},
		{"different ones", []string{oldSecret}, []string{newSecret}, HMACMismatch, HMACMismatch, ""},
		{"dialer has none", nil, []string{oldSecret}, SignedButUnsupported, UnsignedButRequired, ""},
		{"acceptor has none", []string{oldSecret}, nil, UnsignedButRequired, SignedButUnsupported, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, a, err1, err2 := meet(t, pod(t, "left", tt.dialer), pod(t, "right", tt.acceptor))
				want(t, "dialer", err1, tt.dial)
				want(t, "acceptor", err2, tt.accept)
				if err1 != nil || err2 != nil {
					if d != nil || a != nil {
						t.Error("a conn beside the error")
					}
					for _, err := range []error{err1, err2} {
						if e, ok := errors.AsType[*Error](err); !ok || e.Hello == nil {
							t.Errorf("%v: without the other side's HELLO", err)
						}
					}
					return
				}
				for _, c := range []*Conn{d, a} {
					if c.Signed != (tt.key != "") || c.Signed && c.Key != newKey(tt.key).id {
						t.Errorf("signed %t with %x", c.Signed, c.Key)
					}
				}
			})
		})
	}
}

func TestVersions(t *testing.T) {
	speaks := func(low, high byte) func(*Config) {
		return func(c *Config) { c.MinVersion, c.MaxVersion = low, high }
	}
	tests := []struct {
		name             string
		dialer, acceptor func(*Config)
		version          byte
	}{
		{"both new", speaks(1, 2), speaks(1, 2), 2},
		{"acceptor is older", speaks(1, 2), speaks(1, 1), 1},
		{"dialer is older", speaks(1, 1), speaks(1, 2), 1},
		{"dialer is newer", speaks(2, 3), speaks(1, 2), 2},
		{"nothing in common", speaks(2, 2), speaks(1, 1), 0},
		{"nothing in common, the other dials", speaks(1, 1), speaks(2, 3), 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, a, err1, err2 := meet(t, pod(t, "left", secret, tt.dialer), pod(t, "right", secret, tt.acceptor))
				if tt.version == 0 {
					want(t, "dialer", err1, Version)
					want(t, "acceptor", err2, Version)
					return
				}
				if err := errors.Join(err1, err2); err != nil {
					t.Fatal(err)
				}
				for _, c := range []*Conn{d, a} {
					if c.Version != tt.version {
						t.Errorf("version %d, want %d", c.Version, tt.version)
					}
				}
			})
		})
	}
}

func TestSelf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pod(t, "left", secret)
		_, _, err1, err2 := meet(t, p, p)
		want(t, "dialer", err1, Self)
		want(t, "acceptor", err2, Self)
		// A pod that was restarted is another one.
		_, _, err1, err2 = meet(t, p, pod(t, "left", secret, func(c *Config) { c.Incarnation++ }))
		if err := errors.Join(err1, err2); err != nil {
			t.Error(err)
		}
	})
}

// TestDifferences: both sides reach the same result, whichever side dials, and a pod of
// an earlier build is judged by the fields that it sends.
func TestDifferences(t *testing.T) {
	says := func(instance, former string, tokens ...string) func(*Config) {
		return func(c *Config) {
			c.Instance = instance
			c.Former = strings.Fields(former)
			c.Tokens = func() *TokenSecrets { return NewTokenSecrets(tokens) }
		}
	}
	many := strings.Split(strings.Repeat("secret ", wire.MaxTokenSecrets+1), " ")
	tests := []struct {
		name             string
		one, other       func(*Config)
		secrets          []string
		reason           Reason // "": they link, and see these differences
		instance, tokens bool
	}{
		{"the same", says("rel://a", "", "t"), says("rel://a", "", "t"), secret, "", false, false},
		{"in another order", says("", "", "t", "u"), says("", "", "u", "t"), secret, "", false, false},
		{"another instance address", says("rel://a", "", "t"), says("rels://a", "", "t"), secret, OtherInstance, false, false},
		{"another instance address, no cluster secret", says("rel://a", ""), says("rel://b", ""), nil, OtherInstance, false, false},
		{"a former instance address", says("rel://new", "rel://x rel://old"), says("rel://old", ""), secret, "", true, false},
		{"a former instance address, no cluster secret", says("rel://new", "rel://old"), says("rel://old", ""), nil, "", true, false},
		{"another former instance address", says("rel://new", "rel://older"), says("rel://old", "rel://older"), secret, OtherInstance, false, false},
		{"one token secret in common", says("", "", "t", "u"), says("", "", "s", "t"), secret, "", false, true},
		{"no token secret in common", says("", "", "t", "u"), says("", "", "s"), secret, OtherTokens, false, false},
		{"more token secrets than can be told", says("", "", many...), says("", "", "s"), secret, "", false, true},
		{"one says nothing", says("rel://a", "", "t"), says("", ""), secret, "", false, false},
		{"nothing is said of tokens without a key", says("rel://a", "", "t"), says("rel://a", "", "u"), nil, "", false, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				one, other := pod(t, "left", tt.secrets, tt.one), pod(t, "right", tt.secrets, tt.other)
				for _, dial := range [][2]*Pod{{one, other}, {other, one}} {
					d, a, err1, err2 := meet(t, dial[0], dial[1])
					want(t, "dialer", err1, tt.reason)
					want(t, "acceptor", err2, tt.reason)
					for _, c := range []*Conn{d, a} {
						if c == nil {
							continue
						}
						differ := Differ(c.MyTokens, c.TheirTokens)
						if c.OtherInstance != tt.instance || differ != tt.tokens {
							t.Errorf("other instance %t, other tokens %t", c.OtherInstance, differ)
						}
						if c.Tokens() != c.MyTokens {
							t.Error("a proof would say something else now")
						}
					}
				}
			})
		})
	}
	if _, err := New(Config{Address: "a:1", Former: make([]string, wire.MaxFormer+1)}); err == nil {
		t.Error("more former addresses than can be told are taken")
	}
}

// TestRotation: a rollout that exchanges the secret one pod at a time, and
// swaps them in pods that run, has every pair linking at every step.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rings := []*KeyRing{ring(t, oldSecret), ring(t, oldSecret), ring(t, oldSecret)}
		var pods []*Pod
		for i, r := range rings {
			pods = append(pods, pod(t, string(rune('a'+i)), nil, func(c *Config) { c.Keys = r }))
		}
		all := func(step string) {
			t.Helper()
			for _, p := range pods {
				for _, q := range pods {
					if p == q {
						continue
					}
					if _, _, err1, err2 := meet(t, p, q); err1 != nil || err2 != nil {
						t.Fatalf("%s: %s and %s: %v, %v", step, p.config.Address, q.config.Address, err1, err2)
					}
				}
			}
		}
		all("before")
		for _, secrets := range [][]string{{newSecret, oldSecret}, {newSecret}} {
			for i, r := range rings {
				if err := r.Swap(secrets...); err != nil {
					t.Fatal(err)
				}
				all(strings.Join(secrets, " ") + " " + pods[i].config.Address)
			}
		}
	})
}

func TestKeyRing(t *testing.T) {
	long := strings.Repeat("s", MinSecret)
	nine := make([]string, 9)
	for i := range nine {
		nine[i] = long + string(rune('0'+i))
	}
	tests := []struct {
		name    string
		secrets []string
		want    error
		len     int
	}{
		{"none", nil, nil, 0},
		{"just long enough", []string{long}, nil, 1},
		{"one short", []string{long[1:]}, ErrShortSecret, 0},
		{"empty", []string{""}, ErrShortSecret, 0},
		{"the second one is short", []string{long, "secret"}, ErrShortSecret, 0},
		{"eight", nine[:8], nil, 8},
		{"nine", nine, ErrSecrets, 0},
		{"one twice", []string{long, long}, nil, 1},
		{"nine with one twice", append([]string{nine[0]}, nine[:8]...), nil, 8},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := NewKeyRing(tt.secrets...)
			if !errors.Is(err, tt.want) || r.Len() != tt.len {
				t.Errorf("%d secrets, %v, want %d and %v", r.Len(), err, tt.len, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "ssss") {
				t.Errorf("a secret in %q", err)
			}
			r = ring(t, oldSecret)
			before := r.snapshot()[0].id
			swapWant := tt.want
			if tt.secrets == nil {
				swapWant = ErrNoSecret
			}
			if err := r.Swap(tt.secrets...); !errors.Is(err, swapWant) {
				t.Errorf("Swap: %v, want %v", err, swapWant)
			}
			if kept := r.snapshot()[0].id == before; kept != (swapWant != nil) {
				t.Errorf("the secret before was kept: %t", kept)
			}
		})
	}
	if (*KeyRing)(nil).Len() != 0 {
		t.Error("a nil ring has secrets")
	}
	k := newKey(oldSecret)
	if string(k.dialer) == string(k.acceptor) || k.id == newKey(newSecret).id {
		t.Error("keys are the same for both roles, or for different secrets")
	}
}

func TestNew(t *testing.T) {
	for _, c := range []Config{
		{},
		{Address: "has blanks:1"},
		{Address: strings.Repeat("x", 256)},
		{Address: "a:1", MinVersion: 3},
	} {
		if _, err := New(c); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%+v: %v, want an error", c, err)
		}
	}
}

// TestAgreement: for all HELLOs both pods reach the same result, and success does not
// depend on which pod dialled.
func TestAgreement(t *testing.T) {
	keys := []wire.Fingerprint{{1}, {2}, {3}}
	var hellos []*wire.Hello
	for _, versions := range [][2]byte{{1, 1}, {1, 2}, {2, 2}, {2, 3}} {
		for _, k := range [][]wire.Fingerprint{nil, keys[:1], keys[1:2], keys[:2], {keys[1], keys[0]}, keys[2:]} {
			for _, c := range []uint32{0, 1, ^uint32(0)} {
				hellos = append(hellos, &wire.Hello{Min: versions[0], Max: versions[1], Keys: k, Capabilities: c,
					Nonce: [32]byte{byte(len(hellos))}, Address: "a:1", Incarnation: uint64(len(hellos))})
			}
		}
	}
	// What each side says when the other says the key.
	mirror := map[Reason]Reason{Version: Version, HMACMismatch: HMACMismatch, Self: Self, Reflected: Reflected,
		UnsignedButRequired: SignedButUnsupported, SignedButUnsupported: UnsignedButRequired}
	for _, x := range hellos {
		for _, y := range hellos {
			dialer, err1 := agree(x, y, Dialer)
			acceptor, err2 := agree(y, x, Acceptor)
			switch {
			case (err1 == nil) != (err2 == nil), dialer != acceptor:
				t.Fatalf("%+v with %+v: %+v, %v and %+v, %v", x, y, dialer, err1, acceptor, err2)
			case err1 != nil && mirror[err1.Reason] != err2.Reason:
				t.Fatalf("%+v with %+v: %v and %v", x, y, err1, err2)
			}
			if _, err := agree(x, y, Acceptor); (err == nil) != (err1 == nil) {
				t.Fatalf("%+v with %+v: the result depends on the dialer: %v, %v", x, y, err, err1)
			}
		}
	}
}

func TestCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := pipe()
		defer right.Close()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := pod(t, "left", secret).Dial(ctx, left)
		want(t, "dialer", err, Closed)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v, want %v", err, context.Canceled)
		}
	})
}

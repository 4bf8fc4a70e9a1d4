package auth_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
)

var (
	alice   = messages.HashID("alice")
	bob     = messages.HashID("bob")
	gateway = messages.PeerID([]byte("gw--" + strings.Repeat("x", messages.PeerIDSize-4)))
)

func inAnHour() time.Time { return time.Now().Add(time.Hour) }

func wantErr(t *testing.T, got, want error) {
	t.Helper()
	if !errors.Is(got, want) || (want == nil && got != nil) {
		t.Errorf("got error %v, want %v", got, want)
	}
}

func TestValidate(t *testing.T) {
	const secret = "a, b,c"
	v2, named := auth.Issue(secret, inAnHour()), auth.IssueNamed(secret, alice, inAnHour())
	tests := []struct {
		name    string
		token   any
		require bool
		want    error
	}{
		{name: "bytes", token: []byte(v2)},
		{name: "token", token: v2},
		{name: "text", token: string(v2), want: auth.ErrTokenMalformed},
		{name: "nothing", token: nil, want: auth.ErrTokenMalformed},
		{name: "no bytes", token: []byte(nil), want: auth.ErrTokenMalformed},
		{name: "named", token: named, want: auth.ErrTokenAlgorithm},
		{name: "a part of the secret", token: auth.Issue("a", inAnHour()), want: auth.ErrTokenSignature},
		{name: "named demanded", token: v2, require: true, want: auth.ErrTokenNotNamed},
		{name: "named demanded and given", token: named, require: true, want: auth.ErrTokenAlgorithm},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := auth.NewValidator(secret)
			v.RequireNamed(tt.require)
			wantErr(t, v.Validate(tt.token), tt.want)
		})
	}
}

func TestWhoMayUseWhichKind(t *testing.T) {
	const secret = "relay-secret"
	v2 := auth.Issue(secret, inAnHour())
	tests := []struct {
		name    string
		id      messages.PeerID
		token   auth.Token
		require bool
		want    error
	}{
		{"v2", alice, v2, false, nil},
		{"v2 where named is demanded", alice, v2, true, auth.ErrTokenNotNamed},
		{"v2 for a part of ours", gateway, v2, false, auth.ErrTokenNotNamed},
		{"v2 for the zero id", messages.PeerID{}, v2, false, auth.ErrTokenNotNamed},
		{"named", alice, auth.IssueNamed(secret, alice, inAnHour()), false, nil},
		{"named where it is demanded", alice, auth.IssueNamed(secret, alice, inAnHour()), true, nil},
		{"named for a part of ours", gateway, auth.IssueNamed(secret, gateway, inAnHour()), false, nil},
		{"named for another", bob, auth.IssueNamed(secret, alice, inAnHour()), false, auth.ErrTokenPeer},
		{"named by another secret", alice, auth.IssueNamed("other", alice, inAnHour()), false, auth.ErrTokenSignature},
		{"forged where named is demanded", alice, auth.Issue("other", inAnHour()), true, auth.ErrTokenSignature},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := auth.NewValidator(secret)
			v.RequireNamed(tt.require)
			wantErr(t, v.ValidatePeer(t.Context(), tt.id, tt.token), tt.want)
			v.RequireNamed(false)
			if tt.require && tt.want == auth.ErrTokenNotNamed {
				wantErr(t, v.ValidatePeer(t.Context(), tt.id, tt.token), nil)
			}
		})
	}
}

// A test bubble begins in 2000, whose Unix seconds have nine digits.
func TestLastSecondCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := auth.NewValidator("relay-secret")
		expiry := time.Now().Add(time.Minute)
		v2, named := auth.Issue("relay-secret", expiry), auth.IssueNamed("relay-secret", alice, expiry)
		check := func(want error) {
			t.Helper()
			wantErr(t, v.ValidatePeer(t.Context(), alice, v2), want)
			wantErr(t, v.ValidatePeer(t.Context(), alice, named), want)
			wantErr(t, v.Validate(v2), want)
		}
		check(nil)
		time.Sleep(time.Minute + time.Second - time.Nanosecond)
		check(nil)
		time.Sleep(time.Nanosecond)
		check(auth.ErrTokenExpired)
	})
}

// The three steps of a rotation, with a token of each secret at each step.
func TestRotationLocksNobodyOut(t *testing.T) {
	v := auth.NewValidator("old")
	oldToken, newToken := auth.Issue("old", inAnHour()), auth.IssueNamed("new", alice, inAnHour())
	steps := []struct {
		secrets          []string
		wantOld, wantNew error
	}{
		{[]string{"old"}, nil, auth.ErrTokenSignature},
		{[]string{"old", "new"}, nil, nil},
		{[]string{"new", "old"}, nil, nil},
		{[]string{"new"}, auth.ErrTokenSignature, nil},
		{nil, auth.ErrTokenSignature, auth.ErrTokenSignature},
	}
	for _, s := range steps {
		v.SetSecrets(s.secrets...)
		wantErr(t, v.ValidatePeer(t.Context(), alice, oldToken), s.wantOld)
		wantErr(t, v.ValidatePeer(t.Context(), alice, newToken), s.wantNew)
	}
}

func TestEmptySecretOpensNothing(t *testing.T) {
	for _, v := range []*auth.Validator{auth.NewValidator(), auth.NewValidator(""), auth.NewValidator("", "relay-secret")} {
		wantErr(t, v.Validate(auth.Issue("", inAnHour())), auth.ErrTokenSignature)
	}
	wantErr(t, auth.NewValidator("", "relay-secret").Validate(auth.Issue("relay-secret", inAnHour())), nil)
}

func TestSecretsAreBounded(t *testing.T) {
	var secrets []string
	for i := range auth.MaxSecrets + 1 {
		secrets = append(secrets, fmt.Sprintf("secret-%d", i))
	}
	v := auth.NewValidator(secrets...)
	wantErr(t, v.Validate(auth.Issue(secrets[auth.MaxSecrets-1], inAnHour())), nil)
	wantErr(t, v.Validate(auth.Issue(secrets[auth.MaxSecrets], inAnHour())), auth.ErrTokenSignature)
}

func TestConcurrentUse(t *testing.T) {
	v := auth.NewValidator("old")
	token := auth.Issue("old", inAnHour())
	named := auth.IssueNamed("old", bob, inAnHour())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				if err := errors.Join(v.ValidatePeer(t.Context(), alice, token), v.ValidatePeer(t.Context(), bob, named)); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for range 100 {
				v.SetSecrets("new", "old")
				v.SetSecrets("old")
			}
		})
	}
	wg.Wait()
}

// Odd times are issued as they are, and read back.
func TestIssueRoundTrip(t *testing.T) {
	for _, seconds := range []int64{math.MinInt64, -1, 0, 999_999_999, 1_000_000_000, 1 << 40, math.MaxInt64} {
		for _, token := range []auth.Token{
			auth.Issue("s", time.Unix(seconds, 0)), auth.IssueNamed("s", bob, time.Unix(seconds, 0)),
		} {
			got, err := token.Expiry()
			if err != nil || got.Unix() != seconds {
				t.Errorf("expiry %d: got %d, %v", seconds, got.Unix(), err)
			}
			if len(token) > messages.MaxTokenSize {
				t.Errorf("expiry %d: token of %d bytes, at most %d fit", seconds, len(token), messages.MaxTokenSize)
			}
		}
	}
}

func TestTokenParts(t *testing.T) {
	v2 := auth.Issue("relay-secret", time.Unix(1900000000, 0))
	named := auth.IssueNamed("relay-secret", alice, time.Unix(1900000000, 0))
	if len(named) != auth.NamedTokenSize {
		t.Errorf("named token of %d bytes, want %d", len(named), auth.NamedTokenSize)
	}
	tests := []struct {
		name, payload string
		token         auth.Token
		kind          auth.Kind
		signature     int
		peer          messages.PeerID
		named         bool
	}{
		{"v2", "1900000000", v2, auth.KindV2, 44, messages.PeerID{}, false},
		{"named", string(alice[:]) + "1900000000", named, auth.KindNamed, 44, alice, true},
		{"empty", "", nil, 0, 0, messages.PeerID{}, false},
		{"cut", "", named[:32], auth.KindNamed, 0, messages.PeerID{}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.token.Payload(); got != tt.payload {
				t.Errorf("Payload = %q, want %q", got, tt.payload)
			}
			if got := tt.token.Kind(); got != tt.kind {
				t.Errorf("Kind = %d, want %d", got, tt.kind)
			}
			if got := tt.token.Signature(); len(got) != tt.signature {
				t.Errorf("Signature = %q, want %d characters", got, tt.signature)
			}
			if got, ok := tt.token.PeerID(); got != tt.peer || ok != tt.named {
				t.Errorf("PeerID = %v, %t, want %v, %t", got, ok, tt.peer, tt.named)
			}
		})
	}
}

func TestNothingPrintsSecrets(t *testing.T) {
	token := auth.Issue("relay-secret", inAnHour())
	v := auth.NewValidator("relay-secret")
	if err := v.Validate(token); err != nil { // the pools are in use
		t.Fatal(err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b"} {
		if got := fmt.Sprintf(verb, token); got != "[redacted]" {
			t.Errorf("a token prints as %s with %s", got, verb)
		}
		if got := fmt.Sprintf(verb, struct{ T auth.Token }{token}); strings.Contains(got, token.Payload()) {
			t.Errorf("a token in a struct prints as %s with %s", got, verb)
		}
	}
	if got := token.String(); got != "[redacted]" {
		t.Errorf("String = %s", got)
	}
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "token", token, "validator", v)
	if got := out.String(); !strings.Contains(got, "token=[redacted]") || !strings.Contains(got, "1 secrets") {
		t.Errorf("logged as %s", got)
	}
}

func TestNewSecret(t *testing.T) {
	a, b := auth.NewSecret(), auth.NewSecret()
	if a == b {
		t.Errorf("NewSecret twice is %s", a)
	}
	if raw, err := base64.RawURLEncoding.DecodeString(a); err != nil || len(raw) != 32 {
		t.Errorf("NewSecret = %s: %d bytes, %v, want 32", a, len(raw), err)
	}
}

func TestValidatePeerDoesNotAllocate(t *testing.T) {
	v := auth.NewValidator("first", "second")
	v2, named := auth.Issue("second", inAnHour()), auth.IssueNamed("second", alice, inAnHour())
	ctx := t.Context()
	check := func() {
		if err := errors.Join(v.ValidatePeer(ctx, alice, v2), v.ValidatePeer(ctx, alice, named)); err != nil {
			t.Error(err)
		}
	}
	if raceEnabled {
		check()
		t.Skip("the race detector makes pools forget")
	}
	if allocs := testing.AllocsPerRun(200, check); allocs != 0 {
		t.Errorf("two checks allocate %v times, want 0", allocs)
	}
}

// reference is a token v2 checked in the obvious way, by the order of checks
// that the protocol gives.
func reference(secret string, token []byte) error {
	if len(token) < 33 || len(token[33:]) < 10 {
		return auth.ErrTokenMalformed
	}
	if token[0] != 1 {
		return auth.ErrTokenAlgorithm
	}
	k := sha256.Sum256([]byte(secret))
	h := hmac.New(sha256.New, k[:])
	h.Write(token[33:])
	if !bytes.Equal(h.Sum(nil), token[1:33]) {
		return auth.ErrTokenSignature
	}
	n, err := strconv.ParseInt(string(token[33:]), 10, 64)
	if err != nil {
		return auth.ErrTokenMalformed
	}
	if n < time.Now().Unix() {
		return auth.ErrTokenExpired
	}
	return nil
}

// FuzzToken checks each token as it is and, so that the fuzzer gets beyond the
// MAC, with its payload signed for both kinds.
func FuzzToken(f *testing.F) {
	const secret = "relay-secret"
	for _, file := range []string{"accepted.txt", "refused.txt"} {
		for _, vec := range readVectors(f, file) {
			f.Add(vec.token)
		}
	}
	v, strict := auth.NewValidator("another", secret), auth.NewValidator(secret)
	strict.RequireNamed(true)
	f.Fuzz(func(t *testing.T, token []byte) {
		check := func(token []byte) {
			want := reference(secret, token)
			if err := v.Validate(token); !errors.Is(err, want) {
				t.Errorf("Validate(%x) = %v, want %v", token, err, want)
			}
			if err := strict.Validate(token); err == nil {
				t.Errorf("Validate(%x) passes where a named token is demanded", token)
			}
			id, named := auth.Token(token).PeerID()
			if !named {
				id = alice
			}
			start := time.Now().Unix()
			err := v.ValidatePeer(context.Background(), id, token)
			if !named && len(token) > 0 && token[0] != byte(auth.KindNamed) && !errors.Is(err, want) {
				t.Errorf("ValidatePeer(%x) = %v, want %v", token, err, want)
			}
			if err == nil && named {
				other := id
				other[35] ^= 1
				wantErr(t, v.ValidatePeer(context.Background(), other, token), auth.ErrTokenPeer)
				wantErr(t, strict.ValidatePeer(context.Background(), id, token), nil)
			}
			if expiry, e := auth.Token(token).Expiry(); err == nil && (e != nil || expiry.Unix() < start) {
				t.Errorf("accepted token %x has the expiry %v, %v", token, expiry, e)
			}
		}
		check(token)
		if len(token) > 33 {
			k := sha256.Sum256([]byte(secret))
			h := hmac.New(sha256.New, k[:])
			h.Write(token[33:])
			check(h.Sum([]byte{1})[:33:33])
			check(append(h.Sum([]byte{1}), token[33:]...))
			check(append(h.Sum([]byte{2}), token[33:]...))
		}
	})
}

func BenchmarkValidatePeer(b *testing.B) {
	v := auth.NewValidator("relay-secret", "older")
	for _, bb := range []struct {
		name  string
		token auth.Token
	}{
		{"v2", auth.Issue("relay-secret", inAnHour())},
		{"named", auth.IssueNamed("relay-secret", alice, inAnHour())},
		{"v2 second secret", auth.Issue("older", inAnHour())},
	} {
		b.Run(bb.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := v.ValidatePeer(b.Context(), alice, bb.token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

package auth_test

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/messages"
)

// vector is one entry of testdata/vectors, see the README there.
type vector struct {
	fields map[string]string
	token  []byte
}

func (v vector) peer(t testing.TB) messages.PeerID {
	t.Helper()
	return messages.PeerID(unhex(t, v.fields["peer"]))
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readVectors(t testing.TB, file string) []vector {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "vectors", file))
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		v := vector{fields: map[string]string{}}
		for line := range strings.SplitSeq(block, "\n") {
			if more, ok := strings.CutPrefix(line, "  "); ok {
				v.fields["hex"] += more
				continue
			}
			if strings.HasPrefix(line, "#") {
				continue
			}
			key, value, ok := strings.Cut(line, ":")
			if !ok {
				t.Fatalf("%s: line %q is no field", file, line)
			}
			v.fields[key] = strings.TrimPrefix(value, " ")
		}
		v.token = unhex(t, v.fields["hex"])
		all = append(all, v)
	}
	return all
}

var reasons = map[string]error{
	"malformed": auth.ErrTokenMalformed,
	"algorithm": auth.ErrTokenAlgorithm,
	"signature": auth.ErrTokenSignature,
	"expired":   auth.ErrTokenExpired,
	"peer":      auth.ErrTokenPeer,
	"not named": auth.ErrTokenNotNamed,
}

func TestAcceptedVectors(t *testing.T) {
	for _, vec := range readVectors(t, "accepted.txt") {
		t.Run(vec.fields["name"], func(t *testing.T) {
			v := auth.NewValidator(vec.fields["secret"])
			if err := v.ValidatePeer(t.Context(), vec.peer(t), vec.token); err != nil {
				t.Errorf("ValidatePeer: %v", err)
			}
			for n := range vec.token {
				if err := v.ValidatePeer(t.Context(), vec.peer(t), vec.token[:n]); err == nil {
					t.Errorf("accepted when cut to %d of %d bytes", n, len(vec.token))
				}
			}
			if s, ok := vec.fields["signature"]; ok && auth.Token(vec.token).Signature() != s {
				t.Errorf("Signature = %s, want %s", auth.Token(vec.token).Signature(), s)
			}
			text, ok := vec.fields["expiry"]
			if !ok {
				return
			}
			seconds, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			expiry := time.Unix(seconds, 0)
			made := auth.Issue(vec.fields["secret"], expiry)
			if vec.fields["kind"] == "named" {
				made = auth.IssueNamed(vec.fields["secret"], vec.peer(t), expiry)
			}
			if hex.EncodeToString(made) != vec.fields["hex"] {
				t.Errorf("issued %s\nwant   %s", hex.EncodeToString(made), vec.fields["hex"])
			}
			if got, err := made.Expiry(); err != nil || !got.Equal(expiry) {
				t.Errorf("Expiry = %v, %v, want %v", got, err, expiry)
			}
		})
	}
}

func TestRefusedVectors(t *testing.T) {
	for _, vec := range readVectors(t, "refused.txt") {
		t.Run(vec.fields["name"], func(t *testing.T) {
			want, ok := reasons[vec.fields["error"]]
			if !ok {
				t.Fatalf("unknown reason %q", vec.fields["error"])
			}
			v := auth.NewValidator(vec.fields["secret"])
			wantErr(t, v.ValidatePeer(t.Context(), vec.peer(t), vec.token), want)
		})
	}
}

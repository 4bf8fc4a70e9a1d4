package handshake

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// readVectors returns the vectors of testdata/vectors/handshake.txt by name. They
// are written as those of package wire.
func readVectors(t *testing.T) map[string]map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "vectors", "handshake.txt"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]map[string]string{}
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		v, key := map[string]string{}, ""
		for line := range strings.SplitSeq(block, "\n") {
			if strings.HasPrefix(line, "#") {
				continue
			}
			if more, ok := strings.CutPrefix(line, "  "); ok {
				v[key] += more
				continue
			}
			var value string
			key, value, _ = strings.Cut(line, ":")
			v[key] = strings.TrimPrefix(value, " ")
		}
		all[v["name"]] = v
	}
	return all
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil || len(b) == 0 {
		t.Fatalf("%q: %v", s, err)
	}
	return b
}

func TestVectorsOfKeys(t *testing.T) {
	for _, name := range []string{"key_old", "key_new"} {
		v := readVectors(t)[name]
		k := newKey(v["secret"])
		for field, got := range map[string][]byte{"id": k.id[:], "dialer": k.dialer, "acceptor": k.acceptor, "tokens": k.tokens} {
			if !bytes.Equal(got, unhex(t, v[field])) {
				t.Errorf("%s: %s is %x, want %s", name, field, got, v[field])
			}
		}
	}
}

func TestVectorOfProofs(t *testing.T) {
	v := readVectors(t)["exchange"]
	dialer, acceptor := unhex(t, v["hello-dialer"]), unhex(t, v["hello-acceptor"])
	d, err := wire.ParseHello(dialer)
	if err != nil {
		t.Fatal(err)
	}
	a, err := wire.ParseHello(acceptor)
	if err != nil {
		t.Fatal(err)
	}
	k := newKey(v["secret"])
	agreed, refused := agree(d, a, Dialer)
	if refused != nil || agreed != (terms{version: 1, signed: true, key: k.id}) {
		t.Fatalf("agreed on %+v, %v", agreed, refused)
	}
	script := transcript(dialer, acceptor, unhex(t, v["exporter"]))
	if !bytes.Equal(script, unhex(t, v["transcript"])) {
		t.Errorf("transcript %x, want %s", script, v["transcript"])
	}
	for _, role := range []Role{Dialer, Acceptor} {
		have, err := strconv.ParseUint(v["have-"+role.String()], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		p := wire.Proof{Have: have, Tokens: fingerprint(k.tokens, []byte(v["token-secrets"]))}
		p.MAC = mac(k.of(role), script, p)
		if got, want := wire.AppendProof(nil, p), unhex(t, v["proof-"+role.String()]); !bytes.Equal(got, want) {
			t.Errorf("PROOF of the %v %x, want %x", role, got, want)
		}
	}
}

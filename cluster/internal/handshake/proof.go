package handshake

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// exporter names the value of TLS that only the two ends of one connection
// know (RFC 8446, section 7.5), and exporterSize its size in bytes.
const (
	exporter     = "EXPORTER-crosspod-link"
	exporterSize = 32
)

// transcript is what both proofs cover: both HELLOs, the dialer's first, each with its
// length, and the exporter of the connection.
func transcript(dialer, acceptor, exported []byte) []byte {
	h := sha256.New()
	for _, hello := range [][]byte{dialer, acceptor} {
		var size [4]byte
		binary.BigEndian.PutUint32(size[:], uint32(len(hello)))
		h.Write(size[:])
		h.Write(hello)
	}
	h.Write(exported)
	return h.Sum(nil)
}

// mac returns the proof of the side with this key, over the transcript and the other
// fields of PROOF.
func mac(key, transcript []byte, p wire.Proof) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(transcript)
	h.Write(p.Proved(nil))
	return h.Sum(nil)
}

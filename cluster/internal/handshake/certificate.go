package handshake

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"time"
)

// protocol is the ALPN of links (RFC 7301). With it a pod notices at once that it has
// dialled another kind of server by mistake, or that another client has dialled it.
const protocol = "crosspod/1"

// throwAway returns the TLS config of links. Its certificate is not checked: the proofs
// identify the other end. It never expires, so that clocks do not matter.
func throwAway() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{protocol},
		Certificates:           []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		InsecureSkipVerify:     true, // the proofs bind this connection, see ADR-0016
		SessionTicketsDisabled: true, // each link has a full handshake
		// Batches are written whole; small records at first would only cost.
		DynamicRecordSizingDisabled: true,
	}, nil
}

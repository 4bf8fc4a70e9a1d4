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

// protocol is the ALPN of links (RFC 7301): who dials something else by mistake,
// or is dialled by it, notices at once.
const protocol = "crosspod/1"

// throwAway returns the TLS of links, with a certificate that nobody checks: the
// proofs say who is there. It is good for ever, so that no clock takes part.
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
		SessionTicketsDisabled: true, // each link proves itself anew
		// Batches are written whole; small records at first would only cost.
		DynamicRecordSizingDisabled: true,
	}, nil
}

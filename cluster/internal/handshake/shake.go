package handshake

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/tls"
	"io"
	"slices"

	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/netbatch"
)

// shake is one handshake in progress.
type shake struct {
	pod   *Pod
	role  Role
	below *netbatch.Below
	tls   *tls.Conn
	keys  []key // in use when it began

	mine, theirs       *wire.Hello
	mineRaw, theirsRaw []byte // payloads of the HELLOs
	ahead              int64  // see Conn
	terms              terms
}

func (s *shake) run(ctx context.Context) (*Conn, error) {
	if err := s.encrypt(ctx); err != nil {
		return nil, err
	}
	var err error
	if s.role == Dialer {
		err = s.greet()
	}
	if err == nil {
		err = s.listen()
	}
	if err == nil && s.role == Acceptor {
		err = s.greet()
	}
	if err != nil {
		return nil, err
	}
	var refused *Error
	if s.terms, refused = agree(s.mine, s.theirs, s.role); refused != nil {
		return nil, refused
	}
	return s.prove()
}

// encrypt does the TLS handshake.
func (s *shake) encrypt(ctx context.Context) error {
	if s.role == Dialer {
		s.tls = tls.Client(s.below, s.pod.tls)
	} else {
		s.tls = tls.Server(s.below, s.pod.tls)
	}
	if err := s.tls.HandshakeContext(ctx); err != nil {
		return err
	}
	// crypto/tls accepts an end that names no protocol at all.
	if p := s.tls.ConnectionState().NegotiatedProtocol; p != protocol {
		return refuse(TLS, "the other side speaks %q, not %q", p, protocol)
	}
	return nil
}

// greet writes this side's HELLO.
func (s *shake) greet() error {
	s.mine = s.pod.hello(s.keys)
	rand.Read(s.mine.Nonce[:]) // never fails
	frame, err := wire.AppendHello(nil, s.mine)
	if err != nil {
		return err
	}
	s.mineRaw = frame[wire.HeaderSize:]
	_, err = s.tls.Write(frame)
	return err
}

// listen reads the HELLO of the other side.
func (s *shake) listen() (err error) {
	if s.theirsRaw, err = s.read(wire.TypeHello, FirstFrameNotHello); err != nil {
		return err
	}
	if s.theirs, err = wire.ParseHello(s.theirsRaw); err != nil {
		return &Error{Reason: Malformed, Err: err}
	}
	if clock := s.pod.config.Clock; clock != nil {
		s.ahead = int64(s.theirs.Clock - clock())
	}
	return nil
}

// prove exchanges the proofs. The dialer sends its proof first, since it chose the
// acceptor, while the acceptor answers anyone and should reveal nothing.
func (s *shake) prove() (*Conn, error) {
	var k *key
	if s.terms.signed {
		k = &s.keys[slices.IndexFunc(s.keys, func(k key) bool { return k.id == s.terms.key })]
	}
	script, err := s.transcript()
	if err != nil {
		return nil, err
	}
	mine, theirs, err := s.exchange(k, script)
	if err != nil {
		return nil, err
	}
	if refused := agreeOnTokens(&mine, &theirs); refused != nil {
		return nil, refused
	}
	// Checked only now: a pod does not dial an address again that leads to itself, so
	// that has to be proved as well.
	if s.theirs.PodID() == s.pod.id {
		return nil, refuse(Self, "the other side is this pod")
	}
	return &Conn{
		TLS:           s.tls,
		Below:         s.below,
		Role:          s.role,
		Version:       s.terms.version,
		Signed:        s.terms.signed,
		Key:           s.terms.key,
		Pod:           s.theirs.PodID(),
		Hello:         s.theirs,
		Have:          theirs.Have,
		OtherInstance: Differ(s.mine.Instance, s.theirs.Instance),
		Ahead:         s.ahead,
		MyTokens:      mine.Tokens,
		TheirTokens:   theirs.Tokens,
		own:           s.pod,
		key:           k,
	}, nil
}

// exchange sends this side's proof and checks the other's, in the order of the
// roles. Without a key nothing is proved.
func (s *shake) exchange(k *key, script []byte) (mine, theirs wire.Proof, err error) {
	if s.role == Dialer {
		if mine, err = s.show(k, script); err != nil {
			return mine, theirs, err
		}
	}
	if theirs, err = s.check(k, script); err != nil {
		return mine, theirs, err
	}
	if s.role == Acceptor {
		mine, err = s.show(k, script)
	}
	return mine, theirs, err
}

// show writes this side's PROOF.
func (s *shake) show(k *key, script []byte) (wire.Proof, error) {
	var p wire.Proof
	p.Tokens, p.Each = s.pod.tokens(k)
	if s.pod.config.Have != nil {
		p.Have = s.pod.config.Have(s.theirs.PodID())
	}
	if k != nil {
		p.MAC = mac(k.of(s.role), script, p)
	}
	_, err := s.tls.Write(wire.AppendProof(nil, p))
	return p, err
}

// check reads the PROOF of the other side.
func (s *shake) check(k *key, script []byte) (wire.Proof, error) {
	payload, err := s.read(wire.TypeProof, Malformed)
	if err != nil {
		return wire.Proof{}, err
	}
	p, err := wire.ParseProof(payload)
	switch {
	case err != nil:
		return p, &Error{Reason: Malformed, Err: err}
	case k == nil && p.MAC != nil:
		return p, refuse(SignedButUnsupported, "the other side sent a proof although neither side has a secret")
	case k != nil && p.MAC == nil:
		return p, refuse(UnsignedButRequired, "the other side sent no proof")
	case k != nil && !hmac.Equal(p.MAC, mac(k.of(s.role.other()), script, p)):
		return p, refuse(HMACMismatch, "the proof is wrong")
	}
	return p, nil
}

func (s *shake) transcript() ([]byte, error) {
	state := s.tls.ConnectionState()
	exported, err := state.ExportKeyingMaterial(exporter, nil, exporterSize)
	if err != nil {
		return nil, err
	}
	if s.role == Dialer {
		return transcript(s.mineRaw, s.theirsRaw, exported), nil
	}
	return transcript(s.theirsRaw, s.mineRaw, exported), nil
}

// read returns the payload of the next frame, which must be of type want; otherwise
// otherwise is the reason of the error. It reads not a byte more.
func (s *shake) read(want wire.Type, otherwise Reason) ([]byte, error) {
	var header [wire.HeaderSize]byte
	if _, err := io.ReadFull(s.tls, header[:]); err != nil {
		return nil, err
	}
	typ, size, err := wire.ParseHeader(header[:])
	switch {
	case typ != want:
		return nil, refuse(otherwise, "got %v instead of %v", typ, want)
	case err != nil:
		return nil, &Error{Reason: Malformed, Err: err}
	}
	payload := make([]byte, size)
	_, err = io.ReadFull(s.tls, payload)
	return payload, err
}

// Differ reports whether both fingerprints are given and are not the same.
func Differ(a, b wire.Fingerprint) bool {
	return a != b && a != wire.Fingerprint{} && b != wire.Fingerprint{}
}

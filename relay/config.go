package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"go.opentelemetry.io/otel/metric"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/relayurl"
	"github.com/crosspod/crosspod/messages"
)

// Config is what a relay is made from.
type Config struct {
	// Meter makes the relay's instruments; nil means no metrics.
	Meter metric.Meter
	// ExposedAddress is where peers reach the relay, and what every peer is
	// told, byte for byte the same on every pod: "relay.example.com:443",
	// "rel://…" or "rels://…". Required.
	ExposedAddress string
	// TLSSupport says that peers reach this process over TLS: an
	// ExposedAddress without a scheme becomes rels:// instead of rel://.
	TLSSupport bool
	// AuthValidator checks the tokens of peers. Required.
	AuthValidator Validator
	// CrossPodForwarder takes messages for peers of other pods; nil means a
	// single pod. It can be set later, see [Relay.SetCrossPodForwarder].
	CrossPodForwarder CrossPodForwarder
	// Cluster makes a [Server] one pod of several: Listen joins the others and
	// Shutdown leaves them; nil means a single pod. Its InstanceURL, Meter and
	// Logger are those of the server where it has none. Not with
	// CrossPodForwarder.
	Cluster *cluster.Config
	// Logger receives the relay's log; nil discards it.
	Logger *slog.Logger
	// Limits bounds what peers may use; the zero value has defaults.
	Limits Limits
}

// ListenerConfig is where a [Server] listens.
type ListenerConfig struct {
	// Address is the TCP address to bind, "host:port" or ":port". It may be
	// behind a reverse proxy.
	Address string
	// Listener is used instead of Address when it is not nil; the server
	// closes it.
	Listener net.Listener
	// TLSConfig has the certificate; nil means plain TCP.
	TLSConfig *tls.Config
	// TrustedProxies are the networks of the reverse proxies whose
	// X-Forwarded-For and X-Real-IP headers name the peer's address, see
	// [listener.HalfOpen.Forwarded]. None by default.
	TrustedProxies []netip.Prefix
	// Mux has handlers for other paths than /relay, such as those of the tunnel;
	// nil means that there are none. What it may spend on a request, and when the
	// connection counts as a failed handshake, is said at [ws.Config].
	Mux *http.ServeMux
}

// Validator checks the token of a peer's handshake. Its methods are called from
// many goroutines.
type Validator interface {
	// Validate returns nil for a valid token; token is a []byte that must not
	// be kept. An error with a method Expired that returns true means that the
	// token was valid once, which is counted apart and not as a guess.
	Validate(token any) error
}

// PeerValidator is a [Validator] that wants to know the peer too. It is asked
// instead of Validate.
type PeerValidator interface {
	// ValidatePeer returns nil if token proves that its bearer may be id. ctx
	// ends with the handshake. token must not be kept.
	ValidatePeer(ctx context.Context, id messages.PeerID, token []byte) error
}

// errReservedID refuses ids of the relay's own parts, which need a token that
// names them.
var errReservedID = errors.New("peer id does not begin with sha- and the token does not name it")

// validatorFunc returns the check to use for v.
func validatorFunc(v Validator) func(context.Context, messages.PeerID, []byte) error {
	if named, ok := v.(PeerValidator); ok {
		return named.ValidatePeer
	}
	return func(_ context.Context, id messages.PeerID, token []byte) error {
		if !id.Hashed() {
			return errReservedID
		}
		return v.Validate(token)
	}
}

// instanceURL makes the address that peers are told. Clients compare it byte
// for byte, so what was typed is kept.
func instanceURL(exposed string, tlsSupport bool) (string, error) {
	if exposed == "" {
		return "", errors.New("relay: Config.ExposedAddress is required, for example relay.example.com:443")
	}
	u, err := relayurl.Parse(exposed)
	if err != nil {
		return "", fmt.Errorf("relay: exposed address: %w", err) // without it: it may have a password
	}
	scheme, rest, found := strings.Cut(exposed, "://")
	switch {
	case !found && tlsSupport:
		exposed = "rels://" + exposed
	case !found:
		exposed = "rel://" + exposed
	case !u.TLS && tlsSupport:
		return "", fmt.Errorf("relay: exposed address %q says rel://, plain TCP, but there is a certificate: use rels://", exposed)
	default: // clients of other makers compare the scheme with theirs
		exposed = strings.ToLower(scheme) + "://" + rest
	}
	if len(exposed) > messages.MaxAuthResponseSize-messages.HeaderSize {
		return "", fmt.Errorf("relay: exposed address has %d bytes, at most %d fit", len(exposed), messages.MaxAuthResponseSize-messages.HeaderSize)
	}
	return exposed, nil
}

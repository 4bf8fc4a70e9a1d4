package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/messages"
)

// access is how a command reaches a relay: its address, what proves who we are,
// and what proves that it is the relay. All commands take it from the
// same options and variables.
type access struct {
	set setting.Set // of these alone: only they have variables

	url, secret, secretFile, token, tokenFile, caFile string
	insecure, named                                   bool

	secretOption, secretFileOption, tokenOption, tokenFileOption *setting.Setting
}

// addSecret adds the options for the relay's secret.
func (a *access) addSecret() {
	a.secretOption = a.set.String(&a.secret, "secret", "", "`SECRET` of the relay, better in the variable RELAY_AUTH_SECRET").Secret().AlsoEnv("AUTH_SECRET")
	a.secretFileOption = a.set.String(&a.secretFile, "secret-file", "", "`FILE` with secrets, one a line: the first one signs; or RELAY_AUTH_SECRET_FILE").AlsoEnv("AUTH_SECRET_FILE")
}

// addURL adds the option for the address of the relay.
func (a *access) addURL(def, usage string) *setting.Setting {
	return a.set.String(&a.url, "url", def, usage)
}

// addToken adds the options for a token in place of the secret.
func (a *access) addToken() {
	a.tokenOption = a.set.String(&a.token, "token", "", "`TOKEN` in place of the secret, as relay token prints it; or RELAY_TOKEN").Secret()
	a.tokenFileOption = a.set.String(&a.tokenFile, "token-file", "", "`FILE` with the token; or RELAY_TOKEN_FILE")
	a.set.Bool(&a.named, "named", "with the secret: use a token that names the peer; relays of NetBird and openZro do not accept it")
}

// addTLS adds the options for the certificate of the relay.
func (a *access) addTLS() {
	a.set.String(&a.caFile, "ca-file", "", "`FILE` with the CA certificates to trust for the relay, PEM, in place of the system's; or RELAY_CA_FILE")
	a.set.Bool(&a.insecure, "insecure", "accept any certificate of the relay: anyone between can then read and change everything")
}

// source is one way to prove who we are.
type source struct {
	option *setting.Setting
	value  *string
}

// read takes what no option gave from the environment, and checks what goes
// together. An option wins over a variable, and what is given more closely over
// what is not: of variables a token over the secret.
func (a *access) read(lookup func(string) (string, bool)) error {
	if _, err := a.set.FromEnv(lookup); err != nil {
		return err
	}
	var given []source
	all := []source{{a.tokenOption, &a.token}, {a.tokenFileOption, &a.tokenFile}, {a.secretOption, &a.secret}, {a.secretFileOption, &a.secretFile}}
	for _, s := range all {
		if s.option != nil && s.option.Given() {
			given = append(given, s)
		}
	}
	switch {
	case len(given) > 1:
		return fmt.Errorf("--%s and --%s are both given: want one of them", given[0].option.Name, given[1].option.Name)
	case len(given) == 1:
		for _, s := range all {
			if s.value != given[0].value {
				*s.value = ""
			}
		}
	case a.token != "" || a.tokenFile != "":
		a.secret, a.secretFile = "", ""
	}
	switch {
	case a.secret != "" && a.secretFile != "":
		return errors.New("RELAY_AUTH_SECRET and RELAY_AUTH_SECRET_FILE are both set: want one of them, or an option")
	case a.token != "" && a.tokenFile != "":
		return errors.New("RELAY_TOKEN and RELAY_TOKEN_FILE are both set: want one of them, or an option")
	case a.named && (a.token != "" || a.tokenFile != ""):
		return errors.New("--named needs a secret: a finished token already names a peer, or does not")
	case a.insecure && a.caFile != "":
		return errors.New("--insecure and --ca-file are both given: want one of them")
	}
	return nil
}

// peerName takes the name of a peer. An empty one is a variable of a script that
// is not set, and must not mean any peer.
func peerName(to *string) func(string) error {
	return func(v string) error {
		if v == "" {
			return errors.New("want the name of a peer")
		}
		*to = v
		return nil
	}
}

// theSecret returns the secret that signs; "" when there is none.
func (a *access) theSecret() (string, error) {
	if a.secretFile == "" {
		return a.secret, nil
	}
	secrets, err := auth.ReadSecretFile(a.secretFile)
	if err != nil {
		return "", err
	}
	return secrets[0], nil
}

// errNoSecret says what to give. Commands without tokens say it shorter.
func errNoSecret(also string) error {
	return errors.New("a secret is missing: set RELAY_AUTH_SECRET, or give --secret-file" + also)
}

// tokens returns where the tokens of a peer come from.
func (a *access) tokens(name string) (client.TokenSource, error) {
	text := a.token
	if a.tokenFile != "" {
		b, err := os.ReadFile(a.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		text = string(bytes.TrimSpace(b))
	}
	if text != "" || a.tokenFile != "" {
		// relay token prints further lines behind the token.
		first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
		token, err := hex.DecodeString(strings.TrimSpace(strings.TrimPrefix(first, "token ")))
		if err != nil || len(token) == 0 || len(token) > messages.MaxTokenSize {
			return nil, usageError{errors.New("the token is not valid: want the hexadecimal digits behind \"token\" that relay token prints"), ""}
		}
		return client.StaticToken(token), nil
	}
	secret, err := a.theSecret()
	switch {
	case err != nil:
		return nil, err
	case secret == "":
		return nil, usageError{errNoSecret(" or --token; relay dev prints what to type for it"), ""}
	case a.named:
		return client.NamedSecretToken(secret, messages.HashID(name), ncTokenTTL), nil
	}
	return client.SecretToken(secret, ncTokenTTL), nil
}

// ncTokenTTL is short: a fresh token is made for each connection.
const ncTokenTTL = 5 * time.Minute

// roots returns the certificates of --ca-file; nil: the system's.
func (a *access) roots() (*x509.CertPool, error) {
	if a.caFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(a.caFile)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file is %q: there is no certificate in it, want PEM", a.caFile)
	}
	return pool, nil
}

// tlsConfig returns how a rels:// address is trusted.
func (a *access) tlsConfig() (*tls.Config, error) {
	roots, err := a.roots()
	if err != nil {
		return nil, err
	}
	return &tls.Config{RootCAs: roots, InsecureSkipVerify: a.insecure}, nil
}

package pod

import (
	"context"
	"slices"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/setting"
)

// Secrets is what peers' tokens are signed with.
type Secrets struct {
	AuthSecret         string
	AuthSecretPrevious string
	AuthSecretFile     string
	RequireNamedTokens bool
}

func (c *Secrets) settings(s *setting.Set) {
	s.Group("Secrets")
	s.String(&c.AuthSecret, "auth-secret", "", "secret that signs the tokens of peers; commas are part of it (this or --auth-secret-file is required)").Called("SECRET").Short("s").Secret()
	s.String(&c.AuthSecretPrevious, "auth-secret-previous", "", "older secret that is still accepted, while tokens signed with it are in use").Called("SECRET").Secret()
	s.String(&c.AuthSecretFile, "auth-secret-file", "", "file with secrets, one a line: the first signs, all are accepted; read again when it changes").Called("FILE")
	s.Bool(&c.RequireNamedTokens, "require-named-tokens", "accept only tokens that name their peer; the clients of NetBird and openZro have no such tokens")
}

func (c *Secrets) check(p *problems) {
	switch {
	case c.AuthSecret == "" && c.AuthSecretFile == "":
		p.add("--auth-secret (RELAY_AUTH_SECRET) or --auth-secret-file is missing: want the secret peers' tokens are signed with; relay token --new-secret makes one")
	case c.AuthSecret != "" && c.AuthSecretFile != "":
		p.add("--auth-secret and --auth-secret-file are both given: want one of them; the file may hold several secrets, one a line")
	case c.AuthSecretPrevious != "" && c.AuthSecretFile != "":
		p.add("--auth-secret-previous does not go with --auth-secret-file: want the previous secret as the file's second line")
	}
}

// texts returns the secrets given as text: the first signs, all are accepted. It
// is empty when they come from a file.
func (c *Secrets) texts() []string { return withoutEmpty(c.AuthSecret, c.AuthSecretPrevious) }

func withoutEmpty(texts ...string) []string {
	return slices.DeleteFunc(texts, func(text string) bool { return text == "" })
}

// secrets reads the file of secrets again when it changes.
func (p *Pod) secrets() Part {
	if p.cfg.AuthSecretFile == "" {
		return Part{Name: "secrets"}
	}
	return Part{Name: "secrets", Serve: func(ctx context.Context) error {
		return auth.WatchSecretFile(ctx, p.cfg.AuthSecretFile, p.log.Logger, func(secrets []string) {
			p.validator.SetSecrets(secrets...)
			if others := p.others.Load(); others != nil {
				others.SetTokenSecrets(secrets...)
			}
		})
	}}
}

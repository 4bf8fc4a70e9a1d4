package pod

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/idna"
	"golang.org/x/sync/errgroup"

	"github.com/crosspod/crosspod/internal/certwatch"
	"github.com/crosspod/crosspod/internal/letsencrypt"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// Certificate is what peers are served with: files, or what Let's Encrypt gives.
type Certificate struct {
	TLSCertFile string
	TLSKeyFile  string
	ACME        letsencrypt.Config
	Route53     bool
}

func (c *Certificate) settings(s *setting.Set) {
	s.Group("TLS")
	s.String(&c.TLSCertFile, "tls-cert-file", "", "file with the certificate chain, PEM; read again when it changes").Called("FILE").Short("c")
	s.String(&c.TLSKeyFile, "tls-key-file", "", "file with its key, PEM").Called("FILE").Short("k")
	s.String(&c.ACME.DataDir, "letsencrypt-data-dir", "", "folder to keep Let's Encrypt certificates in, below letsencrypt/").Called("FOLDER").Short("d")
	s.List("letsencrypt-domains", "", "domains to get certificates for; port 443 of each must reach this relay", func(v string) error {
		name, err := certifiable(v)
		if err == nil && !slices.Contains(c.ACME.Domains, name) {
			c.ACME.Domains = append(c.ACME.Domains, name)
		}
		return err
	}).Short("a")
	s.Func("letsencrypt-email", "", "e-mail address that Let's Encrypt may write to", func(v string) error {
		if at := strings.LastIndex(v, "@"); at < 1 || checkName(v[at+1:]) != nil || strings.ContainsAny(v, " <>,") {
			return errors.New("want one address such as ops@example.com")
		}
		c.ACME.Email = v
		return nil
	}).Called("ADDRESS")
	s.Bool(&c.Route53, "letsencrypt-aws-route53", "not supported: this relay proves its domains on port 443")
	s.Func("letsencrypt-directory", "", "URL of an ACME directory to use in place of Let's Encrypt's", func(v string) error {
		u, err := url.Parse(v)
		if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
			return errors.New("want a URL such as https://acme.example.com/directory")
		}
		c.ACME.DirectoryURL = v
		return nil
	}).Called("URL")
	s.String(&c.ACME.CAFile, "letsencrypt-ca-file", "", "file with the CA certificates of that directory, PEM").Called("FILE")
}

// TLS reports whether peers are served with a certificate.
func (c *Certificate) TLS() bool { return c.TLSCertFile != "" || c.LetsEncrypt() }

// LetsEncrypt reports whether the certificate comes from an ACME directory.
func (c *Certificate) LetsEncrypt() bool {
	return c.ACME.DataDir != "" && len(c.ACME.Domains) > 0
}

func (c *Certificate) check(p *problems) {
	if (c.TLSCertFile == "") != (c.TLSKeyFile == "") {
		p.add("--tls-cert-file and --tls-key-file go together: want both or neither")
	}
	if (c.ACME.DataDir == "") != (len(c.ACME.Domains) == 0) {
		p.add("--letsencrypt-data-dir and --letsencrypt-domains go together: want both or neither")
	}
	for _, name := range c.ACME.Domains {
		if top := name[strings.LastIndex(name, ".")+1:]; c.ACME.DirectoryURL == "" && slices.Contains(privateTops, top) {
			p.add("%s has %q: Let's Encrypt issues no certificates for names below .%s, which do not exist on the internet: want a public name, or a certificate made elsewhere (--tls-cert-file)", p.Source("letsencrypt-domains"), name, top)
		}
	}
	if c.Route53 {
		p.add("--letsencrypt-aws-route53 is not supported: this relay proves its domains on port 443 (--letsencrypt-data-dir and --letsencrypt-domains); or use a certificate made elsewhere (--tls-cert-file), which the relay reads again when it changes")
	}
}

// certifiable returns the name to get a certificate for, as directories and clients
// write it, when there can be a certificate for it that is proved by a connection.
func certifiable(v string) (string, error) {
	const such = "want a name such as relay.example.com"
	name := strings.TrimSuffix(v, ".")
	host := strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	switch _, err := netip.ParseAddr(host); {
	case err == nil:
		return "", errors.New("want the name that peers dial: this relay gets no certificates for IP addresses")
	case strings.Contains(name, "*"):
		return "", errors.New("want each name by itself: a certificate for * needs a proof by DNS records, which this relay does not do; or use a certificate made elsewhere (--tls-cert-file)")
	case strings.ContainsAny(name, "/:@"):
		return "", errors.New(such + ", without scheme, user, port or path")
	case !strings.Contains(name, "."):
		return "", errors.New(such + ": there are no certificates for a name of one part")
	}
	ascii, err := idna.Lookup.ToASCII(name)
	if err == nil {
		err = checkName(ascii)
	}
	top := ascii[strings.LastIndex(ascii, ".")+1:]
	if err != nil || strings.Trim(top, "0123456789") == "" {
		return "", errors.New(such + ", of letters, digits and hyphens, in parts of at most 63 with dots between")
	}
	return ascii, nil
}

// privateTops are the last parts of names that are never those of the internet (RFC
// 2606, 6761, 6762, 7686, 8375, 9476 and ICANN's list), so that no public
// directory can prove them.
var privateTops = []string{"alt", "arpa", "example", "home", "internal", "invalid", "lan", "local", "localdomain", "localhost", "onion", "test"}

// certificates sets what peers are served with, and keeps that up to date.
func (p *Pod) certificates() (Part, error) {
	part := Part{Name: "certificates"}
	var served certwatch.Served // by Let's Encrypt
	current := served.Current
	watch := func(context.Context) error { return nil }
	var err error
	switch c := p.cfg; {
	case c.LetsEncrypt():
		le := c.ACME
		le.Logger, le.Served = p.log.Logger, served.Note
		if p.tls, err = letsencrypt.TLSConfig(le); err != nil {
			return part, err
		}
	case c.TLSCertFile != "":
		files, err := ws.LoadCertificates(c.TLSCertFile, c.TLSKeyFile, p.log.Logger)
		if err != nil {
			return part, fmt.Errorf("--tls-cert-file and --tls-key-file: %w", err)
		}
		p.tls, watch = &tls.Config{GetCertificate: files.GetCertificate}, files.Watch
		current = func() []*tls.Certificate {
			cert, err := files.GetCertificate(nil)
			if err != nil {
				return nil
			}
			return []*tls.Certificate{cert}
		}
	}
	if err := certwatch.Observe(p.meter, current); err != nil {
		return part, fmt.Errorf("export metrics of the certificate: %w", err)
	}
	if p.tls != nil {
		part.Serve = func(ctx context.Context) error {
			g, ctx := errgroup.WithContext(ctx)
			g.Go(func() error { return watch(ctx) })
			g.Go(func() error {
				(&certwatch.Watch{Current: current, Address: p.relay.InstanceURL(), Logger: p.log.Logger}).Run(ctx)
				return nil
			})
			return g.Wait()
		}
	}
	return part, nil
}

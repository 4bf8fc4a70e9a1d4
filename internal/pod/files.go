package pod

import (
	"errors"
	"fmt"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/letsencrypt"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// Files is what settings and the files that they name hold.
type Files struct {
	tokens   []string // the secrets that sign peers' tokens
	cluster  []string
	opsToken string
}

// ReadFiles reads all files that the settings name. The error says of each that
// cannot be used what is wrong, so that none is found only when the relay runs.
func (r *Settings) ReadFiles() (files Files, err error) {
	var errs []error
	check := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", r.Source(name), err))
		}
	}
	files.tokens, files.cluster = r.Secrets.texts(), r.Cluster.texts()
	if r.AuthSecretFile != "" {
		files.tokens, err = auth.ReadSecretFile(r.AuthSecretFile)
		check("auth-secret-file", err)
	}
	if r.Cluster.Wanted() && r.Cluster.SecretFile != "" {
		if files.cluster, err = auth.ReadSecretFile(r.Cluster.SecretFile); err == nil {
			err = CheckClusterSecrets(files.cluster)
		}
		check("cluster-auth-secret-file", err)
	}
	if r.OpsTokenFile != "" {
		tokens, err := auth.ReadSecretFile(r.OpsTokenFile)
		check("ops-token-file", err)
		if err == nil {
			files.opsToken = tokens[0]
		}
	}
	switch {
	case r.LetsEncrypt():
		_, err := letsencrypt.TLSConfig(r.ACME)
		if errors.Is(err, letsencrypt.ErrNotKept) {
			check("letsencrypt-data-dir", err)
		} else {
			check("letsencrypt-ca-file", err)
		}
	case r.TLSCertFile != "" && r.TLSKeyFile != "":
		if _, err := ws.LoadCertificates(r.TLSCertFile, r.TLSKeyFile, nil); err != nil {
			errs = append(errs, fmt.Errorf("%s and %s: %w", r.Source("tls-cert-file"), r.Source("tls-key-file"), err))
		}
	}
	return files, errors.Join(errs...)
}

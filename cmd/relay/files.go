package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/internal/letsencrypt"
	"github.com/crosspod/crosspod/internal/logging"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

// secretTexts is what settings and the files that they name hold.
type secretTexts struct {
	tokens   []string // what peers' tokens are signed with
	cluster  []string
	opsToken string
}

// readFiles reads all files that the settings name. The error says of each that
// cannot be used what is wrong, so that none is found only when the relay runs.
func readFiles(cfg *setting.Relay) (texts secretTexts, err error) {
	var errs []error
	check := func(name string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", cfg.Source(name), err))
		}
	}
	texts.tokens, texts.cluster = cfg.Secrets(), cfg.Cluster.Secrets()
	if cfg.AuthSecretFile != "" {
		texts.tokens, err = auth.ReadSecretFile(cfg.AuthSecretFile)
		check("auth-secret-file", err)
	}
	if cfg.Cluster.Wanted() && cfg.Cluster.SecretFile != "" {
		if texts.cluster, err = auth.ReadSecretFile(cfg.Cluster.SecretFile); err == nil {
			err = setting.CheckClusterSecrets(texts.cluster)
		}
		check("cluster-auth-secret-file", err)
	}
	if cfg.OpsTokenFile != "" {
		tokens, err := auth.ReadSecretFile(cfg.OpsTokenFile)
		check("ops-token-file", err)
		if err == nil {
			texts.opsToken = tokens[0]
		}
	}
	switch {
	case cfg.LetsEncrypt():
		_, err := letsencrypt.TLSConfig(letsEncrypt(cfg))
		if errors.Is(err, letsencrypt.ErrNotKept) {
			check("letsencrypt-data-dir", err)
		} else {
			check("letsencrypt-ca-file", err)
		}
	case cfg.TLSCertFile != "" && cfg.TLSKeyFile != "":
		if _, err := ws.LoadCertificates(cfg.TLSCertFile, cfg.TLSKeyFile, nil); err != nil {
			errs = append(errs, fmt.Errorf("%s and %s: %w", cfg.Source("tls-cert-file"), cfg.Source("tls-key-file"), err))
		}
	}
	if err := checkLogFile(cfg.LogFile); err != nil {
		errs = append(errs, fmt.Errorf("%s is %q: open log file: %w", cfg.Source("log-file"), cfg.LogFile, err))
	}
	return texts, errors.Join(errs...)
}

func letsEncrypt(cfg *setting.Relay) letsencrypt.Config {
	return letsencrypt.Config{
		DataDir:      cfg.LetsEncryptDataDir,
		Domains:      cfg.LetsEncryptDomains,
		Email:        cfg.LetsEncryptEmail,
		DirectoryURL: cfg.LetsEncryptDirectory,
		CAFile:       cfg.LetsEncryptCACertFile,
	}
}

// checkLogFile says what would keep a file from being opened, and opens none: it
// would be made.
func checkLogFile(file string) error {
	if file == logging.Console || file == logging.Syslog {
		return nil
	}
	if info, err := os.Stat(file); err == nil && info.IsDir() {
		return errors.New("it is a folder: want a file in it")
	}
	folder := filepath.Dir(file)
	if info, err := os.Stat(folder); err != nil {
		return fmt.Errorf("its folder: %w", err)
	} else if !info.IsDir() {
		return fmt.Errorf("%s is not a folder", folder)
	}
	return nil
}

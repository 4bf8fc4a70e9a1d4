package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"

	"github.com/crosspod/crosspod/internal/logging"
	"github.com/crosspod/crosspod/internal/pod"
	"github.com/crosspod/crosspod/internal/setting"
)

const startHelp = `Each option has a variable of the environment: RELAY_ and its name in upper case, with _ for -. The names of NetBird (NB_) and openZro (OZ_) work too. An option wins over a variable, but lists are joined.`

func (p *program) startCommand() *command {
	cfg, settings := pod.NewSettings()
	return &command{
		name: "start", short: "serve peers", about: startHelp,
		examples: []string{
			"relay start --exposed-address relay.example.com:443 \\",
			"    --auth-secret-file secret --tls-cert-file tls.crt --tls-key-file tls.key",
			"RELAY_AUTH_SECRET=... relay start -l :8080 -e rel://10.0.0.7:8080",
		},
		options: []*setting.Set{settings},
		run:     func(ctx context.Context, _ []string) error { return p.start(ctx, cfg, settings) },
	}
}

// start checks all that was set before anything is opened.
func (p *program) start(ctx context.Context, cfg *pod.Settings, settings *setting.Set) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	// Without a reader of standard error its lines are lost and nothing else is:
	// writes fail, since the signal goes where it is dropped.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	warnings, err := settings.FromEnv(p.lookupEnv)
	unknown := settings.Unknown(p.environ)
	files, unread := cfg.ReadFiles()
	if err = errors.Join(err, cfg.Validate(), unread); err != nil {
		for _, w := range unknown { // it may be what is missing
			err = errors.Join(err, errors.New(w))
		}
		return usageError{pod.Indented("settings are missing or wrong", err), "relay start"}
	}
	warnings = append(warnings, unknown...)
	cfg.Log.Console = p.stderr
	log, err := logging.Open(cfg.Log.Config)
	if err != nil {
		return usageError{fmt.Errorf("%s is %q: %w", cfg.Source("log-file"), cfg.Log.File, err), "relay start"}
	}
	// Nothing is left to log the end of the log to.
	defer func() { _ = log.Close() }()
	// What libraries log by themselves would wait for the console.
	slog.SetDefault(log.Logger) // and the default of package log
	otel.SetLogger(logr.FromSlogHandler(log.Handler()))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("metrics are not complete", "err", err) }))
	for _, w := range append(warnings, cfg.Warnings()...) {
		log.Warn("look at this setting", "setting", w)
	}
	parts, err := pod.New(cfg, files, log, hangups)
	if err != nil {
		return usageError{err, "relay start"}
	}
	return parts.Run(ctx, p.cut)
}

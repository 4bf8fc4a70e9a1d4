package main

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/crosspod/crosspod/admin"
	"github.com/crosspod/crosspod/internal/setting"
)

// operatorsCannotListen is cannotListen for the joined errors of their listeners.
func operatorsCannotListen(cfg *setting.Relay, err error) error {
	all, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var errs []error
	for _, err := range all.Unwrap() {
		if failed, ok := errors.AsType[*admin.ListenError](err); ok {
			name := map[string]string{"metrics": "metrics", "health": "health", "operations": "ops"}[failed.Listener]
			err = cannotListen(cfg, name, err)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// cannotListen says which setting an address that cannot be listened at is from,
// and what else could be set. name is how its setting begins.
func cannotListen(cfg *setting.Relay, name string, err error) error {
	if op, ok := errors.AsType[*net.OpError](err); !ok || op.Op != "listen" {
		return err
	}
	all := cfg.Listeners()
	i := slices.IndexFunc(all, func(l setting.Listener) bool { return strings.HasPrefix(l.Name, name) })
	if i < 0 {
		return err
	}
	l, advice := all[i], ""
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		advice = ": another program listens there; stop it, or set --" + l.Name + " to another"
		if l.Name == "metrics-port" {
			advice += " (9090 is Prometheus's own port), or --metrics-listen-address"
		}
	case errors.Is(err, syscall.EACCES):
		advice = ": this user may not listen below port 1024; set --" + l.Name + " to a higher port, or grant CAP_NET_BIND_SERVICE"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		advice = ": this machine does not have that address; set --" + l.Name + " to one that it has, or without a host"
	}
	return fmt.Errorf("%s is %q: %w%s", cfg.Source(l.Name), l.Address, err, advice)
}

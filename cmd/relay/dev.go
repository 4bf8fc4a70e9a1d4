package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/crosspod/crosspod/internal/devcluster"
	"github.com/crosspod/crosspod/internal/logging"
	"github.com/crosspod/crosspod/internal/setting"
)

const (
	devTry  = 15 * time.Second // bounds all that dev shows, so that --once ends within 15 s or so
	devStop = 3 * time.Second  // bounds the end
)

func (p *program) devCommand() *command {
	var a access
	var s setting.Set
	var cfg devcluster.Config
	var once, verbose bool
	s.Int(&cfg.Pods, "pods", 3, 1, 16, "`NUMBER` of pods, all in this process")
	s.Bool(&once, "once", "end after the demonstration, with 0 if all was right; listens on any free port")
	address := s.String(&cfg.Address, "listen-address", devAddress, "`ADDRESS` of loopback to listen on").Short("l")
	s.Bool(&verbose, "verbose", "print the log of the relay")
	a.addSecret()
	return &command{
		name: "dev", short: "try it: three pods on loopback",
		about: "Two peers exchange messages through the pods and a pod is killed; then dev prints how to connect more peers. " +
			"Without a secret it makes a new one.",
		examples: []string{"relay dev", "relay dev --once --pods 1"},
		options:  []*setting.Set{&s, &a.set},
		run: func(ctx context.Context, _ []string) error {
			err := a.read(p.lookupEnv)
			if err != nil {
				return usageError{err, "relay dev"}
			}
			if cfg.Secret, err = a.theSecret(); err != nil {
				return err
			}
			if once && !address.Given() {
				cfg.Address = ""
			}
			if verbose {
				log, err := logging.Open(logging.Config{Console: p.stderr})
				if err != nil {
					return err
				}
				defer log.Close()
				cfg.Logger = log.Logger
			}
			err = p.dev(ctx, cfg, once)
			if ctx.Err() != nil && errors.Is(err, context.Canceled) {
				return nil // the user stopped it
			}
			return err
		},
	}
}

// dev starts a relay, shows what it does and, unless that is all, keeps it up until
// ctx ends.
func (p *program) dev(ctx context.Context, cfg devcluster.Config, once bool) error {
	trying, cancel := context.WithTimeout(ctx, devTry)
	defer cancel()
	cluster, err := devcluster.Start(trying, cfg)
	if err != nil {
		return fmt.Errorf("start %d pods: %w (--listen-address 127.0.0.1:0 takes any free port)", cfg.Pods, err)
	}
	defer func() {
		ending, cancel := context.WithTimeout(p.cut, devStop)
		defer cancel()
		cluster.Shutdown(ending)
	}()
	noColour, _ := p.lookupEnv("NO_COLOR")
	err = cluster.Show(trying, devcluster.View{Out: p.stdout, Colour: isTerminal(p.stdout) && noColour == "", Program: self(), Once: once})
	if err == nil && !once {
		<-ctx.Done()
	}
	return err
}

// self returns how to call this program from anywhere: another terminal may not
// have it on its PATH.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// Command load runs peers in a pod. GET / answers once every pair talks, POST /stop
// ends them and answers with the figures.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/crosspod/crosspod/test/k8s/load"
)

func main() {
	logrus.SetOutput(io.Discard) // of NetBird's library
	var cfg load.Config
	flag.StringVar(&cfg.Name, "name", "load", "prefix of the names of the peers")
	url := flag.String("url", "", "address of the relay")
	flag.StringVar(&cfg.Secret, "secret", "", "secret that signs the tokens of peers")
	flag.StringVar(&cfg.CA, "ca", "", "certificate authority of the relay, PEM")
	flag.IntVar(&cfg.Ours, "ours", 0, "pairs of our client")
	flag.IntVar(&cfg.NetBird, "netbird", 0, "pairs of NetBird's library")
	flag.IntVar(&cfg.Rate, "rate", 100, "messages a second, each way of each pair")
	listen := flag.String("listen", ":8080", "where to be asked")
	flag.Parse()
	cfg.URLs = []string{*url}
	if err := run(cfg, *listen); err != nil {
		slog.Error("the load ended", "err", err)
		os.Exit(1)
	}
}

func run(cfg load.Config, listen string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var running atomic.Pointer[load.Load]
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, _ *http.Request) {
		if running.Load() == nil {
			http.Error(w, "not every pair talks yet", http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("POST /stop", func(w http.ResponseWriter, _ *http.Request) {
		l := running.Swap(nil)
		if l == nil {
			http.Error(w, "nothing runs", http.StatusConflict)
			return
		}
		_ = json.NewEncoder(w).Encode(l.Stop()) // the asker may have gone
	})
	srv := &http.Server{Addr: listen, Handler: mux}
	ended := make(chan error, 1)
	go func() { ended <- srv.ListenAndServe() }()
	l, err := load.Start(ctx, cfg)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	running.Store(l)
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	return errors.Join(err, srv.Close())
}

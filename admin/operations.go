package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strconv"
	"strings"
	"time"

	"github.com/crosspod/crosspod/internal/logging"
)

var (
	errNoListener = errors.New("no listener for peers")
	errNeedsToken = errors.New("operations on an address other than loopback need a bearer token")
)

// LogLevel is the level of the log. A [slog.LevelVar] is one.
type LogLevel interface {
	Level() slog.Level
	Set(slog.Level)
}

// maxProfile bounds the length of a profile.
const maxProfile = 5 * time.Minute

func newOperations(cfg Config) (http.Handler, error) {
	if cfg.LogLevel == nil {
		return nil, errors.New("admin: Config.LogLevel is required with OpsAddress")
	}
	if cfg.OpsToken == "" && !isLoopbackAddress(cfg.OpsAddress) {
		return nil, fmt.Errorf("admin: OpsAddress is %q: %w", cfg.OpsAddress, errNeedsToken)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/log-level", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, levelName(cfg.LogLevel.Level())+"\n")
	})
	log := cfg.Logger
	mux.HandleFunc("PUT /v1/log-level", func(w http.ResponseWriter, r *http.Request) {
		level, err := readLevel(w, r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		was := cfg.LogLevel.Level()
		cfg.LogLevel.Set(level)
		log.Info("log level set", "level", levelName(level), "was", levelName(was))
		answer(w, http.StatusOK, levelName(level)+"\n")
	})
	mux.HandleFunc("GET /v1/cluster", func(w http.ResponseWriter, _ *http.Request) {
		serveCluster(w, cfg.Cluster)
	})
	if cfg.Pprof {
		// All but cmdline, since a secret may be on the command line.
		mux.HandleFunc("GET /debug/pprof/", bounded(pprof.Index)) // and profiles by name
		mux.HandleFunc("GET /debug/pprof/profile", bounded(pprof.Profile))
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", bounded(pprof.Trace))
	}
	// A page that runs in an operator's browser may reach loopback too.
	handler := http.NewCrossOriginProtection().Handler(mux)
	if cfg.OpsToken == "" {
		return onlyLoopbackHost(handler), nil
	}
	return bearer(cfg.OpsToken, handler), nil
}

// NoCluster is the body with which the operations listener answers 404 for the other
// pods when there are none. No other listener answers it.
const NoCluster = "this pod links to no others"

// serveCluster answers with what this pod knows of the others.
func serveCluster(w http.ResponseWriter, status func() any) {
	var known any
	if status != nil {
		known = status()
	}
	if known == nil {
		http.Error(w, NoCluster, http.StatusNotFound)
		return
	}
	body, err := json.MarshalIndent(known, "", "  ")
	if err != nil {
		http.Error(w, "no answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	answer(w, http.StatusOK, string(body)+"\n")
}

// readLevel takes the name of a level from the body: "debug", with or without a
// line end.
func readLevel(w http.ResponseWriter, r *http.Request) (slog.Level, error) {
	const maxLevel = 64
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxLevel))
	if err != nil {
		return 0, fmt.Errorf("read the level: %w", err)
	}
	name := strings.TrimSpace(string(body))
	if name == "" {
		return 0, errors.New("no level in the body, for example debug")
	}
	return logging.ParseLevel(name)
}

// levelName is what [logging.ParseLevel] takes.
func levelName(level slog.Level) string {
	if level == logging.LevelTrace {
		return "trace"
	}
	return strings.ToLower(level.String())
}

// bounded refuses profiles longer than [maxProfile]. Shorter ones lift the server's
// write timeout by themselves.
func bounded(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s, err := strconv.ParseFloat(r.FormValue("seconds"), 64); err == nil && !(s <= maxProfile.Seconds()) { // nor NaN
			http.Error(w, fmt.Sprintf("seconds: at most %.0f", maxProfile.Seconds()), http.StatusBadRequest)
			return
		}
		h(w, r)
	}
}

// onlyLoopbackHost refuses requests for any host but loopback: a web page can make its
// own name resolve to 127.0.0.1.
func onlyLoopbackHost(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = strings.Trim(r.Host, "[]") // no port
		}
		if !isLoopbackHost(host) {
			http.Error(w, "this host is served with a bearer token only", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// bearer refuses requests without the token.
func bearer(token string, next http.Handler) http.Handler {
	want := sha256.Sum256([]byte(token)) // equal lengths for a comparison in constant time
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		sum := sha256.Sum256([]byte(got))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(sum[:], want[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			http.Error(w, "bearer token required", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

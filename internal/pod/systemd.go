package pod

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// systemd tells the service manager what the pod is doing, as sd_notify(3) describes.
// It sends nothing if the process was not started by one.
type systemd struct {
	// Set by New, never changed.
	log  *slog.Logger
	send func(state string) error

	mu      sync.Mutex // guards what follows, and keeps the states in order
	started bool       // and not stopping
}

// newSystemd sends to the socket that the service manager has put into the environment.
func newSystemd(log *slog.Logger) *systemd {
	return &systemd{log: log, send: func(state string) error {
		_, err := daemon.SdNotify(false, state)
		return err
	}}
}

func (s *systemd) sendLocked(state string) {
	if err := s.send(state); err != nil {
		s.log.Warn("could not notify systemd", "state", state, "err", err)
	}
}

// reload calls load, and says before that the pod reloads and then that it is ready.
func (s *systemd) reload(load func()) {
	s.mu.Lock()
	began := s.started // else, to say that it is ready would be wrong
	if began {
		s.sendLocked(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
	}
	s.mu.Unlock()
	load() // without the lock: the watchdog goes on
	s.mu.Lock()
	defer s.mu.Unlock()
	if began && s.started {
		s.sendLocked(daemon.SdNotifyReady)
	}
}

// stopMargin is what a stop may take beside the drain.
const stopMargin = 10 * time.Second

// startAndStop says that the pod is ready, and then that it stops: it is started last
// and stopped first. It also says how long the drain may take, since the service
// manager may wait less by default.
func (s *systemd) startAndStop(stopping Stopping) Part {
	return Part{
		Name: "systemd",
		Start: func(context.Context) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.started = true
			s.sendLocked(daemon.SdNotifyReady)
			return nil
		},
		Stop: func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.started = false
			most := stopping.DrainDelay + stopping.DrainGrace + stopMargin
			s.sendLocked(fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d", daemon.SdNotifyStopping, most.Microseconds()))
		},
	}
}

// watchdog says that the pod is alive, as often as the service manager wants, while
// live returns nil. It runs during the drain too.
func (s *systemd) watchdog(live func(ctx context.Context) error) Part {
	return Part{
		Name: "watchdog",
		Serve: func(ctx context.Context) error {
			interval, err := daemon.SdWatchdogEnabled(false)
			if err != nil {
				s.log.Warn("cannot use the watchdog of systemd", "err", err)
			}
			if interval > 0 {
				s.watch(ctx, interval, live)
			}
			<-ctx.Done()
			return nil
		},
	}
}

// watch calls live twice in an interval, and more often while it fails, until ctx ends.
func (s *systemd) watch(ctx context.Context, interval time.Duration, live func(ctx context.Context) error) {
	for ctx.Err() == nil {
		wait := interval / 2
		asked, cancel := context.WithTimeout(ctx, interval/4)
		err := live(asked)
		cancel()
		switch {
		case err == nil:
			s.mu.Lock()
			s.sendLocked(daemon.SdNotifyWatchdog)
			s.mu.Unlock()
		case ctx.Err() == nil:
			s.log.Warn("pod does not answer /livez: systemd will kill it if this lasts", "err", err)
			wait = interval / 10
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// live asks the pod's own /livez, as a kubelet would.
func (p *Pod) live(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and without a proxy
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.admin.Addresses()["health"].String()+"/livez", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_ = resp.Body.Close() // the status is all that matters
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("/livez answers %s", resp.Status)
	}
	return nil
}

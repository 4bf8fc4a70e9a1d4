// Package load is pairs of peers that send each other numbered messages at a steady
// rate, and the count of what became of them.
package load

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/crosspod/crosspod/client"
)

const (
	// messageSize is the length of each message, which begins with its number.
	messageSize = 100
	// ServerName is the name in the certificate of a relay with TLS.
	ServerName = "relay.example.com"
	// probe is the number of messages that only find out whether a way is open.
	probe = ^uint64(0)

	probeEvery     = 50 * time.Millisecond
	connectTimeout = 60 * time.Second
	// settled is how long nothing more has arrived when the count is made, and
	// patience how long a count waits for that.
	settled, patience = 2 * time.Second, 15 * time.Second
)

// Config says which peers there are.
type Config struct {
	Name    string   // prefix of all names, of this load alone
	URLs    []string // of the relay; with two, the first peer of each pair uses the first
	Secret  string   // that signs the tokens of peers
	CA      string   // PEM, for rels URLs of ServerName; NetBird's library does not use it
	Ours    int      // pairs of package client
	NetBird int      // pairs of NetBird's library
	Rate    int      // messages a second, each way of each pair
}

// Load is running pairs.
type Load struct {
	cancel   context.CancelFunc // ends the senders
	senders  sync.WaitGroup
	watcher  *client.Client // sees the peers of NetBird come and go; nil: there are none
	watched  *notices
	peers    []peer
	flows    []*flow
	released context.CancelFunc // of everything else
}

// peer is one end of a pair. send never waits for the network to come back.
type peer interface {
	send(message []byte) outcome
	sum(f *Figures) // adds what the peer knows, once it is closed or about to be
	close()
}

// outcome says what an attempt to send came to.
type outcome int

const (
	sent    outcome = iota
	unsent          // the peer itself had no connection
	refused         // the peer had a connection, and was told that the other peer is offline
)

// Start connects all peers and returns when every pair talks both ways.
func Start(ctx context.Context, cfg Config) (_ *Load, err error) {
	life, release := context.WithCancel(context.Background())
	sending, cancel := context.WithCancel(life)
	l := &Load{cancel: cancel, released: release}
	defer func() {
		if err != nil {
			l.end()
		}
	}()
	ctx, done := context.WithTimeout(ctx, connectTimeout)
	defer done()
	var trust *tls.Config
	if cfg.CA != "" {
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM([]byte(cfg.CA))
		trust = &tls.Config{RootCAs: roots, ServerName: ServerName}
	}
	type end struct {
		peer      peer
		out, in   *flow
		kind, own string
	}
	var ends []end
	var netbirds []string
	for i := range cfg.Ours + cfg.NetBird {
		kind := Ours
		if i >= cfg.Ours {
			kind = NetBird
		}
		names := [2]string{fmt.Sprintf("%s-%d-a", cfg.Name, i), fmt.Sprintf("%s-%d-b", cfg.Name, i)}
		ab, ba := &flow{kind: kind, name: names[0] + " to b"}, &flow{kind: kind, name: names[1] + " to a"}
		l.flows = append(l.flows, ab, ba)
		for side, own := range names {
			out, in := ab, ba
			if side == 1 {
				out, in = ba, ab
			}
			other := names[1-side]
			url := cfg.URLs[side%len(cfg.URLs)]
			var p peer
			if kind == Ours {
				p, err = newOurs(ctx, client.Config{URL: url, TLSConfig: trust}, cfg.Secret, own, other, in)
			} else {
				netbirds = append(netbirds, own)
				p, err = newNetBird(life, url, cfg.Secret, own, other, in)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", own, err)
			}
			l.peers = append(l.peers, p)
			ends = append(ends, end{p, out, in, kind, own})
		}
	}
	if len(netbirds) > 0 {
		if l.watcher, l.watched, err = watch(ctx, client.Config{URL: cfg.URLs[0], TLSConfig: trust}, cfg.Secret, cfg.Name+"-watcher", netbirds...); err != nil {
			return nil, fmt.Errorf("watcher: %w", err)
		}
	}
	tick := time.NewTicker(probeEvery)
	defer tick.Stop()
	for silent := ""; ; {
		silent = ""
		for _, e := range ends {
			if !e.out.open() {
				silent = e.own
				e.peer.send(binary.BigEndian.AppendUint64(nil, probe))
			}
		}
		if silent == "" {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("nothing comes from %s: %w", silent, ctx.Err())
		}
	}
	every := time.Second / time.Duration(cfg.Rate)
	for i, e := range ends {
		l.senders.Go(func() {
			// Not all at once, as independent programs would not.
			pause := time.NewTimer(every * time.Duration(i) / time.Duration(len(ends)))
			<-pause.C
			e.out.run(sending, every, e.peer)
		})
	}
	return l, nil
}

// Stop ends the sending, waits for what is under way, and returns the figures. All
// peers are closed.
func (l *Load) Stop() Report {
	l.cancel()
	l.senders.Wait()
	end := time.Now()
	for deadline := end.Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		missing, last := 0, end
		for _, f := range l.flows {
			n, at := f.missing()
			missing += n
			if at.After(last) {
				last = at
			}
		}
		if missing == 0 || time.Since(last) > settled {
			break
		}
	}
	r := Report{Ours: new(Figures), NetBird: new(Figures)}
	for _, f := range l.flows {
		f.sum(r[f.kind])
	}
	for _, p := range l.peers {
		kind := Ours
		if _, ok := p.(*netBird); ok {
			kind = NetBird
		}
		r[kind].Peers++
		p.sum(r[kind])
	}
	if l.watched != nil {
		l.watched.sum(r[NetBird])
	}
	for kind, f := range r {
		if f.Peers == 0 {
			delete(r, kind)
		}
	}
	l.end()
	return r
}

func (l *Load) end() {
	l.cancel()
	l.senders.Wait()
	for _, p := range l.peers {
		p.close()
	}
	if l.watcher != nil {
		_ = l.watcher.Close() // always nil
	}
	l.released()
}

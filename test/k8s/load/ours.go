package load

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
)

// ours is a peer of package client.
type ours struct {
	client  *client.Client
	packets net.PacketConn
	to      client.Addr
	watched *notices
	reader  sync.WaitGroup
}

func newOurs(ctx context.Context, cfg client.Config, secret, own, other string, in *flow) (*ours, error) {
	c, watched, err := watch(ctx, cfg, secret, own, other)
	if err != nil {
		return nil, err
	}
	p := &ours{client: c, packets: c.PacketConn(), to: client.Addr(messages.HashID(other)), watched: watched}
	p.reader.Go(func() {
		b := make([]byte, 2*messageSize)
		for {
			n, from, err := p.packets.ReadFrom(b)
			if err != nil {
				return // closed
			}
			if from == p.to {
				in.receive(b[:n])
			}
		}
	})
	return p, nil
}

// send queues the message, connected or not: the client sends what is queued on its
// next connection.
func (p *ours) send(message []byte) outcome {
	if _, err := p.packets.WriteTo(message, p.to); err != nil {
		return unsent // closed
	}
	return sent
}

func (p *ours) sum(f *Figures) {
	s := p.client.Stats()
	// It gave these up by itself: it was away for too long.
	given := int(s.Dropped.SendQueueFull)
	f.Sent -= given
	f.Lost -= given
	f.NotSent += given
	again := int(s.Connections) - 1
	f.Reconnects += again
	f.Most = max(f.Most, again)
	p.watched.sum(f)
}

func (p *ours) close() {
	_ = p.client.Close() // always nil
	p.reader.Wait()
}

// notices counts what a client is told of peers that stay.
type notices struct {
	mu              sync.Mutex // guards what follows
	offline, online int
	away            map[messages.PeerID]bool
}

// watch connects a client that subscribes to names.
func watch(ctx context.Context, cfg client.Config, secret, own string, names ...string) (*client.Client, *notices, error) {
	cfg.Name = own
	cfg.Token = client.SecretToken(secret, time.Hour)
	c, err := client.Dial(ctx, cfg)
	if err != nil {
		return nil, nil, err
	}
	ids := make([]messages.PeerID, len(names))
	for i, name := range names {
		ids[i] = messages.HashID(name)
	}
	presence, err := c.Subscribe(ids...)
	if err != nil {
		_ = c.Close() // always nil
		return nil, nil, err
	}
	n := &notices{away: make(map[messages.PeerID]bool)}
	go func() { // ends with the client
		for e := range presence.Events() {
			n.mu.Lock()
			switch {
			case !e.Online:
				n.offline++
				n.away[e.ID] = true
			case n.away[e.ID]:
				n.online++
				delete(n.away, e.ID)
			}
			n.mu.Unlock()
		}
	}()
	return c, n, nil
}

func (n *notices) sum(f *Figures) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f.Offline += n.offline
	f.Online += n.online
}

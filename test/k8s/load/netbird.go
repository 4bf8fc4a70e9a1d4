package load

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	token "github.com/netbirdio/netbird/shared/relay/auth/hmac"
	netbird "github.com/netbirdio/netbird/shared/relay/client"
)

const (
	agentMTU = 1280 // of an agent by default; above it the library does not try QUIC
	// How long the peer waits for its partner at once, and before it tries again.
	openTimeout, openPause = time.Second, 10 * time.Millisecond
)

// netBird is a peer of NetBird's library, with its manager as an agent has it. An
// agent opens a connection to its partner again when that has ended; so does it.
type netBird struct {
	manager    *netbird.Manager
	cancel     context.CancelFunc
	conn       atomic.Pointer[net.Conn] // to the partner; nil: none now
	fresh      atomic.Bool              // connected again, and not to the partner yet
	reconnects atomic.Int64
	reader     sync.WaitGroup
}

func newNetBird(ctx context.Context, url, secret, own, other string, in *flow) (*netBird, error) {
	ctx, cancel := context.WithCancel(ctx)
	p := &netBird{manager: netbird.NewManager(ctx, []string{url}, own, agentMTU), cancel: cancel}
	expires := strconv.FormatInt(time.Now().Add(time.Hour).Unix(), 10)
	key := sha256.Sum256([]byte(secret))
	sign := hmac.New(sha256.New, key[:])
	sign.Write([]byte(expires))
	err := p.manager.UpdateToken(&token.Token{Payload: expires, Signature: base64.StdEncoding.EncodeToString(sign.Sum(nil))})
	if err == nil {
		p.manager.SetOnReconnectedListener(func() { p.reconnects.Add(1) })
		err = p.manager.Serve()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("serve: %w", err)
	}
	p.reader.Go(func() {
		for ctx.Err() == nil {
			p.read(ctx, other, in)
			pause := time.NewTimer(openPause)
			<-pause.C
		}
	})
	return p, nil
}

// read opens a connection to the partner and reads from it until it ends.
func (p *netBird) read(ctx context.Context, other string, in *flow) {
	url, ip, err := p.manager.RelayInstanceAddress()
	if err != nil {
		return // not connected
	}
	opening, done := context.WithTimeout(ctx, openTimeout)
	defer done()
	conn, err := p.manager.OpenConn(opening, url, other, ip)
	if err != nil {
		p.fresh.Store(!p.manager.Ready())
		return // the partner is not there
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() }) // it may have ended
	defer stop()
	p.conn.Store(&conn)
	p.fresh.Store(false)
	defer func() {
		p.fresh.Store(!p.manager.Ready())
		p.conn.Store(nil)
	}()
	b := make([]byte, 2*messageSize)
	for {
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		in.receive(b[:n])
	}
}

func (p *netBird) send(message []byte) outcome {
	if conn := p.conn.Load(); conn != nil {
		if _, err := (*conn).Write(message); err == nil {
			return sent
		}
	}
	if p.fresh.Load() || !p.manager.Ready() {
		return unsent
	}
	return refused
}

func (p *netBird) sum(f *Figures) {
	again := int(p.reconnects.Load())
	f.Reconnects += again
	f.Most = max(f.Most, again)
}

func (p *netBird) close() {
	p.cancel()
	p.reader.Wait()
}

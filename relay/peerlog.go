package relay

import (
	"context"
	"log/slog"
	"sync/atomic"

	"golang.org/x/time/rate"
)

// logger returns a logger for this connection. It is made when needed: one kept
// by each idle peer would be a tenth of what the peer costs.
func (p *Peer) logger() *slog.Logger {
	return p.env.log.With("peer", p.id, "remote", p.conn.RemoteAddr())
}

// peerLines bounds the lines about single peers, which peers cause as often as they
// like.
type peerLines struct {
	rate   *rate.Limiter
	unsaid atomic.Uint64 // lines since the last one
}

func newPeerLines() *peerLines { return &peerLines{rate: rate.NewLimiter(1, 20)} }

// info logs a line about p at Info, or where there are too many at Debug.
func (p *Peer) info(msg string, args ...any) { p.env.lines.say(p, slog.LevelInfo, msg, args...) }

// say logs a line about p, at Debug when there were too many in a short time.
func (l *peerLines) say(p *Peer, level slog.Level, msg string, args ...any) {
	if !l.rate.Allow() {
		l.unsaid.Add(1)
		level = slog.LevelDebug
	} else if n := l.unsaid.Swap(0); n > 0 {
		args = append(args, "unsaid", n)
	}
	if ctx := context.Background(); p.env.log.Enabled(ctx, level) {
		p.logger().Log(ctx, level, msg, args...)
	}
}

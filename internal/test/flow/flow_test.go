package flow

import (
	"errors"
	"net"
	"testing"
	"testing/synctest"
)

// pipe is a conn that keeps messages whole; it loses or repeats one.
type pipe struct {
	net.Conn
	messages     chan []byte
	closed       chan struct{}
	n            int
	lose, repeat int
}

func newPipe() *pipe {
	return &pipe{messages: make(chan []byte, 10000), closed: make(chan struct{}), lose: -1, repeat: -1}
}

func (p *pipe) Write(b []byte) (int, error) {
	b = append([]byte(nil), b...)
	if p.n != p.lose {
		p.messages <- b
	}
	if p.n == p.repeat {
		p.messages <- b
	}
	p.n++
	return len(b), nil
}

func (p *pipe) Read(b []byte) (int, error) {
	select {
	case m := <-p.messages:
		return copy(b, m), nil
	case <-p.closed:
		return 0, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	select {
	case <-p.closed:
	default:
		close(p.closed)
	}
	return nil
}

func TestFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe()
		f := Start(t, p, p)
		f.More(t)
		f.More(t)
		if n, gap := f.End(t); n < 2*more || gap < every {
			t.Errorf("%d messages, longest gap %v", n, gap)
		}
	})
}

func TestFlowNoticesLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe()
		p.lose = 100
		f := Start(t, p, p)
		f.More(t)
		if sent, received := f.Stop(); sent != received+1 {
			t.Errorf("%d sent, %d received, want one less", sent, received)
		}
	})
}

func TestFlowNoticesRepetition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPipe()
		p.repeat = 100
		f := Start(t, p, p)
		Eventually(t, "the second one is noticed", func() error {
			if f.Err() == nil {
				return errors.New("no error")
			}
			return nil
		})
	})
}

package devcluster

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// splitterDial bounds how long a pod may take to accept; the next is tried then.
const splitterDial = 2 * time.Second

// splitter is the one address in front of the pods, what a load balancer is
// elsewhere: it gives each connection to the next pod in turn that takes it.
type splitter struct {
	// Set by newSplitter, never changed.
	ln      net.Listener
	pods    []*pod
	ctx     context.Context // ended by close
	cut     context.CancelFunc
	serving sync.WaitGroup

	mu     sync.Mutex // guards what follows
	next   int
	spared *pod // gets no connection here; nil: none
}

// newSplitter serves ln until close.
func newSplitter(ln net.Listener, pods []*pod) *splitter {
	s := &splitter{ln: ln, pods: pods}
	s.ctx, s.cut = context.WithCancel(context.Background())
	s.serving.Go(s.serve)
	return s
}

// close cuts all connections.
func (s *splitter) close() {
	s.cut()
	_ = s.ln.Close() // its serve ends
	s.serving.Wait()
}

// spare keeps connections away from a pod that is going to be killed; nil: from
// none.
func (s *splitter) spare(p *pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spared = p
}

func (s *splitter) serve() {
	for {
		conn, err := s.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // it went away before it was accepted, or no file is left
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-s.ctx.Done():
				return
			}
		}
		s.serving.Go(func() { s.join(conn) })
	}
}

// join copies between a connection and the pod that takes it until either ends.
func (s *splitter) join(conn net.Conn) {
	defer conn.Close()
	to := s.dial()
	if to == nil {
		return // there is no pod
	}
	defer to.Close()
	stop := context.AfterFunc(s.ctx, func() {
		_ = conn.Close()
		_ = to.Close()
	})
	defer stop()
	var back sync.WaitGroup
	back.Go(func() { copyUntilEnd(conn, to) })
	copyUntilEnd(to, conn)
	back.Wait()
}

// copyUntilEnd copies, and passes the end on: a proper one as such, a broken
// connection as a cut.
func copyUntilEnd(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		_ = half.CloseWrite() // it may be closed already
		return
	}
	_ = to.Close()
	_ = from.Close()
}

// dial connects to the next pod in turn that takes it; nil when none does.
func (s *splitter) dial() net.Conn {
	s.mu.Lock()
	first, spared := s.next, s.spared
	s.next++
	s.mu.Unlock()
	dialer := net.Dialer{Timeout: splitterDial}
	for i := range s.pods {
		p := s.pods[(first+i)%len(s.pods)]
		if p == spared || !p.living() {
			continue
		}
		if conn, err := dialer.DialContext(s.ctx, "tcp", p.peers); err == nil {
			return conn
		}
	}
	return nil
}

package interop_test

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// balancer is what stands before several pods: it gives one connection after
// another to the next pod that takes it. It knows nothing of what they carry.
type balancer struct {
	ln    net.Listener
	ports []int
	next  atomic.Uint64
	tasks sync.WaitGroup

	mu     sync.Mutex // guards conns
	conns  map[net.Conn]struct{}
	closed bool
}

// balance listens on port of loopback.
func balance(port int, pods []*pod) (*balancer, error) {
	ln, err := net.Listen("tcp", loopback(port))
	if err != nil {
		return nil, fmt.Errorf("listen before the pods: %w", err)
	}
	b := &balancer{ln: ln, conns: make(map[net.Conn]struct{})}
	for _, p := range pods {
		b.ports = append(b.ports, p.port)
	}
	b.tasks.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.tasks.Go(func() { b.serve(c) })
		}
	})
	return b, nil
}

// keep notes a connection to be closed at the end, unless that has come.
func (b *balancer) keep(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		_ = c.Close() // the balancer serves no more
		return false
	}
	b.conns[c] = struct{}{}
	return true
}

func (b *balancer) drop(c net.Conn) {
	_ = c.Close() // may have ended by itself
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
}

func (b *balancer) serve(c net.Conn) {
	if !b.keep(c) {
		return
	}
	defer b.drop(c)
	var to net.Conn
	for range b.ports {
		port := b.ports[int(b.next.Add(1)-1)%len(b.ports)]
		var err error
		if to, err = net.DialTimeout("tcp", loopback(port), 3*time.Second); err == nil {
			break
		}
	}
	if to == nil || !b.keep(to) {
		return
	}
	defer b.drop(to)
	var there sync.WaitGroup
	there.Go(func() {
		_, _ = io.Copy(to, c) // either end closing ends both ways
		_ = to.Close()
	})
	_, _ = io.Copy(c, to)
	_ = c.Close()
	there.Wait()
}

func (b *balancer) close() {
	_ = b.ln.Close() // its error does not matter
	b.mu.Lock()
	b.closed = true
	for c := range b.conns {
		_ = c.Close()
	}
	b.mu.Unlock()
	b.tasks.Wait()
}

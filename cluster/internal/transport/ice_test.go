package transport

import (
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ice holds up the sockets of a process that is frozen, as SIGSTOP does: nothing
// is read, written or closed until it thaws.
type ice struct {
	mu    sync.Mutex
	thaw  chan struct{} // nil: not frozen
	conns []*icyConn
}

func (i *ice) freeze() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.thaw = make(chan struct{})
}

func (i *ice) melt() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.thaw != nil {
		close(i.thaw)
		i.thaw = nil
	}
}

func (i *ice) frozen() <-chan struct{} {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.thaw
}

type icyListener struct {
	net.Listener
	ice *ice
}

func (l icyListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newIcy(c, l.ice), nil
}

type icyConn struct {
	net.Conn
	ice    *ice
	once   sync.Once
	closed chan struct{}
	lost   atomic.Bool
}

func newIcy(c net.Conn, i *ice) *icyConn {
	icy := &icyConn{Conn: c, ice: i, closed: make(chan struct{})}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.conns = append(i.conns, icy)
	return icy
}

// hold waits while the process is frozen.
func (c *icyConn) hold() {
	if thaw := c.ice.frozen(); thaw != nil {
		select {
		case <-thaw:
		case <-c.closed:
		}
	}
}

func (c *icyConn) Read(b []byte) (int, error) {
	c.hold()
	n, err := c.Conn.Read(b)
	c.hold()
	return n, err
}

func (c *icyConn) Write(b []byte) (int, error) {
	c.hold()
	return c.Conn.Write(b)
}

// deadline sets a deadline. A connection that was lost stays lost: lose sets c.lost first,
// so one of the two sees what the other has done.
func (c *icyConn) deadline(set func(time.Time) error, t time.Time) error {
	err := set(t)
	if c.lost.Load() {
		err = c.Conn.SetDeadline(time.Unix(1, 0))
	}
	return err
}

func (c *icyConn) SetDeadline(t time.Time) error      { return c.deadline(c.Conn.SetDeadline, t) }
func (c *icyConn) SetReadDeadline(t time.Time) error  { return c.deadline(c.Conn.SetReadDeadline, t) }
func (c *icyConn) SetWriteDeadline(t time.Time) error { return c.deadline(c.Conn.SetWriteDeadline, t) }

func (c *icyConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		c.ice.mu.Lock()
		defer c.ice.mu.Unlock()
		c.ice.conns = slices.DeleteFunc(c.ice.conns, func(o *icyConn) bool { return o == c })
	})
	if c.ice.frozen() != nil || c.lost.Load() {
		return nil // the other side does not hear of it
	}
	return c.Conn.Close()
}

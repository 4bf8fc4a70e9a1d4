package admin

import (
	"container/list"
	"net"
	"sync"
)

// crowd is a listener that holds at most limit connections: one more closes the
// oldest. Were it made to wait instead, those who connect and say nothing would
// keep probes out, and have a healthy pod restarted.
type crowd struct {
	net.Listener
	limit int

	mu      sync.Mutex // guards what follows
	members list.List  // of *member, the oldest first
}

// member is a connection of a crowd.
type member struct {
	net.Conn
	crowd *crowd
	place *list.Element // guarded by crowd.mu
}

// Accept implements [net.Listener].
func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	m := &member{Conn: conn, crowd: c}
	if oldest := c.enter(m); oldest != nil {
		_ = oldest.Conn.Close() // whoever serves it finds out
	}
	return m, nil
}

// enter adds m and returns who has to leave for it, nil for nobody.
func (c *crowd) enter(m *member) (oldest *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.members.Len() >= c.limit {
		oldest = c.members.Remove(c.members.Front()).(*member)
	}
	m.place = c.members.PushBack(m)
	return oldest
}

// Close implements [net.Conn].
func (m *member) Close() error {
	m.crowd.mu.Lock()
	m.crowd.members.Remove(m.place) // nothing when it has left
	m.crowd.mu.Unlock()
	return m.Conn.Close()
}

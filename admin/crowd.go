package admin

import (
	"net"
	"net/netip"

	"github.com/crosspod/crosspod/internal/gate"
)

// crowd is a listener that holds a bounded number of connections: one more closes
// the oldest. If it waited instead, clients that connect and say nothing would
// keep probes out, and a healthy pod would be restarted.
type crowd struct {
	net.Listener
	gate *gate.Gate
}

func newCrowd(ln net.Listener, limit int) *crowd {
	return &crowd{ln, gate.New(gate.Config{Places: limit})}
}

// member is a connection of a crowd. It holds its place until it is closed.
type member struct {
	net.Conn
	place gate.Place
}

// Accept implements [net.Listener].
func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	m := &member{Conn: conn}
	c.gate.Enter(&m.place, netip.Prefix{}, func(gate.Reason) { _ = conn.Close() }) // its handler finds out
	return m, nil
}

// Close implements [net.Conn].
func (m *member) Close() error {
	m.place.Leave()
	return m.Conn.Close()
}

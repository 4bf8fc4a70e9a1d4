package transport

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/internal/version"
)

// identity is who this pod is, for itself and for others. Listen sets it.
type identity struct {
	address     netip.AddrPort   // announced: where others dial this pod, and its name
	addresses   []netip.AddrPort // all of them
	machine     []netip.Addr     // of the interfaces of this machine
	incarnation uint64           // random number of this process
	build       string           // version of the program
}

// Listen opens the cluster port. Only then it is known who this pod is: see
// Self.
func (t *Transport) Listen() error {
	port := t.cfg.Port
	addresses := []string{t.cfg.ListenAddress}
	if t.cfg.ListenAddress == "" {
		addresses = nil
		for _, ip := range t.cfg.PodIPs {
			addresses = append(addresses, net.JoinHostPort(ip.String(), strconv.Itoa(port)))
		}
	}
	open := t.cfg.Listen
	if open == nil {
		open = net.Listen
	}
	for _, address := range addresses {
		ln, err := open("tcp", address)
		if err != nil {
			t.closeListeners()
			return fmt.Errorf("listen for other pods at %s: %w", address, err)
		}
		t.listeners = append(t.listeners, ln)
		t.log.Info("listening", "for", "pods", "address", ln.Addr())
	}
	if at, err := netip.ParseAddrPort(t.listeners[0].Addr().String()); err == nil && t.cfg.ListenAddress != "" {
		port = int(at.Port())
	}
	t.self.address = netip.AddrPortFrom(t.cfg.PodIPs[0].Unmap(), uint16(port))
	for _, ip := range t.cfg.PodIPs {
		t.self.addresses = append(t.self.addresses, netip.AddrPortFrom(ip.Unmap(), uint16(port)))
	}
	interfaces, _ := net.InterfaceAddrs() // without, more is said to lead back through something
	for _, i := range interfaces {
		if prefix, err := netip.ParsePrefix(i.String()); err == nil {
			t.self.machine = append(t.self.machine, prefix.Addr().Unmap())
		}
	}
	var incarnation [8]byte
	rand.Read(incarnation[:]) // never fails
	if t.self.build = t.cfg.Version; t.self.build == "" {
		t.self.build = version.Get().Version
	}
	var err error
	t.shaker, err = handshake.New(handshake.Config{
		Address:     t.self.address.String(),
		Incarnation: binary.BigEndian.Uint64(incarnation[:]),
		Keys:        t.keys,
		Build:       t.self.build,
		Clock:       t.clock,
		Have:        t.have,
		Instance:    t.cfg.InstanceURL,
		Former:      t.cfg.FormerInstances,
		Tokens:      t.tokens.Load,
		MinVersion:  t.minVersion,
		MaxVersion:  t.maxVersion,

		Capabilities: t.capabilities,
	})
	if err != nil {
		t.closeListeners()
		return fmt.Errorf("cluster: %w", err)
	}
	t.self.incarnation = binary.BigEndian.Uint64(incarnation[:])
	return nil
}

func (t *Transport) closeListeners() {
	for _, ln := range t.listeners {
		_ = ln.Close() // an error could not be handled
	}
}

// Self is who this pod is, once it listens.
func (t *Transport) Self() directory.Member {
	return directory.Member{ID: t.shaker.ID(), Address: t.self.address.String()}
}

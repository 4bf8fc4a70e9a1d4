package wire

import (
	"encoding/binary"
	"net/netip"
)

const (
	maxOwn    = 16
	maxLinked = 3400
)

// About is what a pod says about itself on a link, again after each change.
type About struct {
	Keys   []Fingerprint    // as in HELLO, of now; at most [MaxKeys]
	Own    []netip.AddrPort // where it can be dialed; at most 16
	Linked []netip.AddrPort // announced by the pods it is linked to; at most 3,400
}

// AppendAbout appends an ABOUT frame. It leaves out keys and addresses beyond the
// limits.
func AppendAbout(dst []byte, a About) []byte {
	start := len(dst)
	dst = begin(dst, TypeAbout)
	keys, own := a.Keys[:min(len(a.Keys), MaxKeys)], a.Own[:min(len(a.Own), maxOwn)]
	dst = append(dst, byte(len(keys)))
	for _, k := range keys {
		dst = append(dst, k[:]...)
	}
	dst = append(dst, byte(len(own)))
	for _, addr := range own {
		dst = appendAddrPort(dst, addr)
	}
	for _, addr := range a.Linked[:min(len(a.Linked), maxLinked)] {
		dst = appendAddrPort(dst, addr)
	}
	return end(dst, start)
}

// ParseAbout parses the payload of an ABOUT frame.
func ParseAbout(payload []byte) (a About, err error) {
	if len(payload) < 1 || payload[0] > MaxKeys || len(payload) < 2+int(payload[0])*FingerprintSize {
		return a, malformed(TypeAbout, "keys")
	}
	n, rest := int(payload[0]), payload[1:]
	for range n {
		a.Keys = append(a.Keys, Fingerprint(rest[:FingerprintSize]))
		rest = rest[FingerprintSize:]
	}
	own := int(rest[0])
	if own > maxOwn {
		return About{}, malformed(TypeAbout, "own addresses")
	}
	for rest = rest[1:]; len(rest) > 0 || len(a.Own) < own; {
		addr, more, ok := cutAddrPort(rest)
		if !ok {
			return About{}, malformed(TypeAbout, "address")
		}
		if len(a.Own) < own {
			a.Own = append(a.Own, addr)
		} else {
			a.Linked = append(a.Linked, addr)
		}
		rest = more
	}
	if len(a.Linked) > maxLinked {
		return About{}, malformed(TypeAbout, "linked pods")
	}
	return a, nil
}

// appendAddrPort appends the size of an IP address, the address and the port.
func appendAddrPort(dst []byte, addr netip.AddrPort) []byte {
	ip := addr.Addr().Unmap().WithZone("")
	dst = append(dst, byte(ip.BitLen()/8))
	dst = append(dst, ip.AsSlice()...)
	return binary.BigEndian.AppendUint16(dst, addr.Port())
}

// cutAddrPort removes from b what appendAddrPort appended.
func cutAddrPort(b []byte) (addr netip.AddrPort, rest []byte, ok bool) {
	if len(b) < 1 || b[0] != 4 && b[0] != 16 || len(b) < 1+int(b[0])+2 {
		return addr, nil, false
	}
	n := 1 + int(b[0])
	ip, ok := netip.AddrFromSlice(b[1:n])
	if !ok || ip.Is4In6() {
		return addr, nil, false
	}
	return netip.AddrPortFrom(ip, binary.BigEndian.Uint16(b[n:])), b[n+2:], true
}

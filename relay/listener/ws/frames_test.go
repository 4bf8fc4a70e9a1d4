package ws_test

import "encoding/binary"

// appendFrame appends a masked frame whose first byte is b0.
func appendFrame(dst []byte, b0 byte, key uint32, payload []byte) []byte {
	dst = append(dst, b0)
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|byte(n))
	case n <= 0xffff:
		dst = append(dst, 0x80|126, byte(n>>8), byte(n))
	default:
		dst = binary.BigEndian.AppendUint64(append(dst, 0x80|127), uint64(n))
	}
	var mask [4]byte
	binary.BigEndian.PutUint32(mask[:], key)
	dst = append(dst, mask[:]...)
	for i, v := range payload {
		dst = append(dst, v^mask[i%4])
	}
	return dst
}

package ws

import (
	"encoding/binary"
	"unicode/utf8"
)

// The first byte of a frame, RFC 6455, section 5.2.
const (
	fin     = 0x80
	rsvBits = 0x70
	opBits  = 0x0f

	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa
)

// The second byte: the mask bit and a length, or a code for a longer field.
const (
	maskBit  = 0x80
	length16 = 126
	length64 = 127
)

// maxControl is the longest payload of a control frame in bytes, RFC 6455,
// section 5.5.
const maxControl = 125

// maxHeader is the longest header of a masked frame.
const maxHeader = 14

// Codes of close frames, RFC 6455, section 7.4.1.
const (
	codeProtocol    = 1002
	codeUnsupported = 1003
	codeNotUTF8     = 1007
	codePolicy      = 1008
	codeTooLong     = 1009
)

// dataFrame is the hot path of the parser. When b starts with one whole
// unfragmented binary frame as existing clients send it, masked, with a payload
// of 1 to limit bytes, it returns where the payload begins and ends. For anything
// else, also a frame that is not whole yet, it returns zeros.
func dataFrame(b []byte, limit int) (start, end int) {
	if len(b) < 8 || b[0] != fin|opBinary {
		return 0, 0 // a whole frame of 1 byte is 7 long; it may take the cold path
	}
	n := int(b[1]) ^ maskBit
	start = 6
	if n == length16 {
		n = int(binary.BigEndian.Uint16(b[2:]))
		start = 8
	} else if n >= length64 { // longer, or not masked
		return 0, 0
	}
	end = start + n
	if n == 0 || n > limit || end > len(b) {
		return 0, 0
	}
	return start, end
}

// appendHeader appends the header of a server's unfragmented frame of n bytes.
func appendHeader(dst []byte, op byte, n int) []byte {
	switch {
	case n < length16:
		return append(dst, fin|op, byte(n))
	case n <= 0xffff:
		return append(dst, fin|op, length16, byte(n>>8), byte(n))
	default:
		dst = append(dst, fin|op, length64)
		return binary.BigEndian.AppendUint64(dst, uint64(n))
	}
}

// checkClose returns the code with which to answer a close frame with this body
// and whether there is one. Wrong bodies are answered with the code for what is
// wrong with them, ok being false.
func checkClose(body []byte) (code int, has, ok bool) {
	if len(body) == 0 {
		return 0, false, true
	}
	if len(body) == 1 {
		return codeProtocol, true, false
	}
	code = int(binary.BigEndian.Uint16(body))
	if !validCloseCode(code) {
		return codeProtocol, true, false
	}
	if !utf8.Valid(body[2:]) {
		return codeNotUTF8, true, false
	}
	return code, true, true
}

// validCloseCode reports whether code may be in a close frame: RFC 6455, section
// 7.4, and 1012 to 1014, which IANA added.
func validCloseCode(code int) bool {
	switch {
	case code >= 3000 && code <= 4999:
		return true
	case code >= 1000 && code <= 1014:
		return code < 1004 || code > 1006
	}
	return false
}

package ws_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"
)

// scripts are the rules of RFC 6455 and of this wire. Those named "autobahn n"
// are the server's cases 1 to 7 and 10 of the Autobahn test suite with what this
// server answers: it takes binary messages only, so what the suite sends as text
// is sent as binary where text is not the point, and messages above the limit are
// refused. Cases 12 and 13 are about compression, which is never negotiated; 9
// is about speed and size.
func scripts() []script {
	var all []script
	add := func(s script) { all = append(all, s) }
	hello := frame(fin|binary_, "hello")
	bye := closeFrame(1000, "")

	// 1: framing.
	add(script{name: "autobahn 1.1.1 empty text", in: frames(frame(fin|text, ""), bye), code: 1003})
	add(script{name: "autobahn 1.1.2 text", in: frames(frame(fin|text, filler(125)), bye), code: 1003})
	add(script{name: "autobahn 1.2.1 empty binary", in: frames(frame(fin|binary_, ""), bye), code: 1003})
	for i, n := range []int{125, 126, 127, 128} {
		add(script{name: fmt.Sprintf("autobahn 1.2.%d binary of %d", i+2, n),
			in: frames(frame(fin|binary_, filler(n)), bye), msgs: []string{filler(n)}, code: 1000})
	}
	for i, n := range []int{65535, 65536} {
		add(script{name: fmt.Sprintf("autobahn 1.2.%d binary of %d", i+6, n), in: frames(frame(fin|binary_, filler(n)), bye), code: 1009})
	}

	// 2: pings and pongs.
	add(script{name: "autobahn 2.1 empty ping", in: frames(frame(fin|ping, ""), bye), pongs: []string{""}, code: 1000})
	add(script{name: "autobahn 2.2 ping", in: frames(frame(fin|ping, "Hello, world!"), bye), pongs: []string{"Hello, world!"}, code: 1000})
	add(script{name: "autobahn 2.3 binary ping", in: frames(frame(fin|ping, "\x00\xff\xfe\xfd\xfc\xfb\x00\xff"), bye),
		pongs: []string{"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"}, code: 1000})
	add(script{name: "autobahn 2.4, 2.6 ping of 125", in: frames(frame(fin|ping, filler(125)), bye), pongs: []string{filler(125)}, code: 1000})
	add(script{name: "autobahn 2.5 ping of 126", in: frames(frame(fin|ping, filler(126)), bye), code: 1002})
	add(script{name: "autobahn 2.7 unsolicited empty pong", in: frames(frame(fin|pong, ""), bye), code: 1000})
	add(script{name: "autobahn 2.8 unsolicited pong", in: frames(frame(fin|pong, "x"), bye), code: 1000})
	add(script{name: "autobahn 2.9 pong and ping", in: frames(frame(fin|pong, "x"), frame(fin|ping, "y"), bye), pongs: []string{"y"}, code: 1000})
	var pings []byte
	var payloads []string
	for i := range 10 {
		p := fmt.Sprintf("payload-%d", i)
		pings = append(pings, frame(fin|ping, p)...)
		payloads = append(payloads, p)
	}
	add(script{name: "autobahn 2.10, 2.11 ten pings", in: frames(pings, bye), pongs: payloads, code: 1000})

	// 3: reserved bits.
	for rsv := 1; rsv <= 7; rsv++ {
		bits := byte(rsv << 4)
		add(script{name: fmt.Sprintf("autobahn 3.%d rsv %d", rsv, rsv),
			in: frames(hello, frame(fin|bits|binary_, "x"), frame(fin|ping, "")), msgs: []string{"hello"}, code: 1002})
		add(script{name: fmt.Sprintf("autobahn 3.%d rsv %d in a ping", rsv, rsv), in: frame(fin|bits|ping, "x"), code: 1002})
		add(script{name: fmt.Sprintf("autobahn 3.%d rsv %d in a close", rsv, rsv), in: frame(fin|bits|closing, ""), code: 1002})
	}

	// 4: reserved opcodes.
	for _, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
		for _, body := range []string{"", "x"} {
			add(script{name: fmt.Sprintf("autobahn 4 opcode %d with %d bytes", op, len(body)),
				in: frames(hello, frame(fin|op, body), frame(fin|ping, "")), msgs: []string{"hello"}, code: 1002})
		}
	}

	// 5: fragmentation.
	first, middle, last := frame(binary_, "fragment1"), frame(continuation, "fragment2"), frame(fin|continuation, "fragment3")
	add(script{name: "autobahn 5.1 fragmented ping", in: frames(frame(ping, "a"), frame(fin|continuation, "b")), code: 1002})
	add(script{name: "autobahn 5.2 fragmented pong", in: frames(frame(pong, "a"), frame(fin|continuation, "b")), code: 1002})
	add(script{name: "autobahn 5.3 to 5.5 two fragments", in: frames(first, last, bye), msgs: []string{"fragment1fragment3"}, code: 1000})
	add(script{name: "autobahn 5.6 to 5.8 ping between fragments", in: frames(first, frame(fin|ping, "p"), last, bye),
		msgs: []string{"fragment1fragment3"}, pongs: []string{"p"}, code: 1000})
	add(script{name: "autobahn 5.9 to 5.11 stray final continuation", in: frames(frame(fin|continuation, "x"), hello, bye), code: 1002})
	add(script{name: "autobahn 5.12 to 5.14 stray continuation", in: frames(frame(continuation, "x"), hello, bye), code: 1002})
	add(script{name: "autobahn 5.15 continuation after the last", in: frames(first, last, middle, hello), msgs: []string{"fragment1fragment3"}, code: 1002})
	add(script{name: "autobahn 5.16 stray continuation, then fragments", in: frames(middle, first, last), code: 1002})
	add(script{name: "autobahn 5.17 stray final continuation, then fragments", in: frames(last, first, last), code: 1002})
	add(script{name: "autobahn 5.18 new message inside", in: frames(first, hello), code: 1002})
	add(script{name: "text inside a fragmented message", in: frames(first, frame(fin|text, "x")), code: 1002})
	add(script{name: "autobahn 5.19, 5.20 pings between five fragments",
		in:   frames(first, middle, frame(fin|ping, "1"), middle, middle, frame(fin|ping, "2"), last, bye),
		msgs: []string{"fragment1fragment2fragment2fragment2fragment3"}, pongs: []string{"1", "2"}, code: 1000})
	add(script{name: "data frame right behind fragments", in: frames(hello, first, last, hello, bye),
		msgs: []string{"hello", "fragment1fragment3", "hello"}, code: 1000})
	add(script{name: "empty fragments around one byte",
		in:   frames(frame(binary_, ""), frame(continuation, ""), frame(continuation, "x"), frame(fin|continuation, ""), bye),
		msgs: []string{"x"}, code: 1000})
	add(script{name: "fragmented empty message", in: frames(frame(binary_, ""), frame(fin|continuation, ""), bye), code: 1003})

	// 6: text, valid UTF-8 or not, is refused from its first frame.
	add(script{name: "autobahn 6.1 to 6.3 text", in: frames(frame(fin|text, "\xce\xba\xe1\xbd\xb9"), bye), code: 1003})
	add(script{name: "autobahn 6.2 fragmented text", in: frames(frame(text, "\xce\xba"), frame(fin|continuation, "\xce"), bye), code: 1003})
	add(script{name: "autobahn 6.4 text that is not UTF-8", in: frames(frame(text, "\xce\xba\xf4\x90\x80\x80"), bye), code: 1003})

	// 7: closing.
	add(script{name: "autobahn 7.1.1 message and close", in: frames(hello, bye), msgs: []string{"hello"}, code: 1000})
	add(script{name: "autobahn 7.1.2 two close frames", in: frames(bye, bye), code: 1000})
	add(script{name: "autobahn 7.1.3 ping after close", in: frames(bye, frame(fin|ping, "x")), code: 1000})
	add(script{name: "autobahn 7.1.4 message after close", in: frames(bye, hello), code: 1000})
	add(script{name: "autobahn 7.1.5 close between fragments", in: frames(first, bye, last), code: 1000})
	add(script{name: "autobahn 7.1.6 large message and close", in: frames(frame(fin|binary_, filler(256<<10)), bye, frame(fin|ping, "")), code: 1009})
	add(script{name: "autobahn 7.3.1 empty close", in: frame(fin|closing, ""), code: noCode})
	add(script{name: "autobahn 7.3.2 close of one byte", in: frame(fin|closing, "a"), code: 1002})
	add(script{name: "autobahn 7.3.3 close with a code", in: bye, code: 1000})
	add(script{name: "autobahn 7.3.4 close with a reason", in: closeFrame(1000, "Hello World!"), code: 1000})
	add(script{name: "autobahn 7.3.5 close with the longest reason", in: closeFrame(1000, string(bytes.Repeat([]byte("*"), 123))), code: 1000})
	add(script{name: "autobahn 7.3.6 close with too long a reason", in: closeFrame(1000, string(bytes.Repeat([]byte("*"), 124))), code: 1002})
	add(script{name: "autobahn 7.5.1 close reason not UTF-8", in: closeFrame(1000, "\xce\xba\xe1\xbd\xb9\xcf\x83\xed\xa0\x80edited"), code: 1007})
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		add(script{name: fmt.Sprintf("autobahn 7.7 close code %d", code), in: closeFrame(code, ""), code: code})
	}
	for _, code := range []int{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		add(script{name: fmt.Sprintf("autobahn 7.9, 7.13 close code %d", code), in: closeFrame(code, ""), code: 1002})
	}

	// 10: automatic fragmentation, here up to the limit of a message.
	var parts []byte
	for op, rest := byte(binary_), filler(maxMessage); rest != ""; op = continuation {
		n := min(1300, len(rest))
		if n == len(rest) {
			op |= fin
		}
		parts = append(parts, frame(op, rest[:n])...)
		rest = rest[n:]
	}
	add(script{name: "autobahn 10.1.1 many fragments", in: frames(parts, bye), msgs: []string{filler(maxMessage)}, code: 1000})

	// Masks, lengths, limits.
	unmasked := []byte{fin | binary_, 5, 'h', 'e', 'l', 'l', 'o'}
	add(script{name: "not masked", in: frames(hello, unmasked, hello), msgs: []string{"hello"}, code: 1002})
	add(script{name: "ping not masked", in: []byte{fin | ping, 0}, code: 1002})
	add(script{name: "mask of zeros", in: frames(appendFrame(nil, fin|binary_, 0, []byte(filler(300))), bye), msgs: []string{filler(300)}, code: 1000})
	long := func(n uint64, payload string) []byte {
		return appendMasked(binary.BigEndian.AppendUint64([]byte{fin | binary_, 0x80 | 127}, n), 0x01020304, []byte(payload))
	}
	add(script{name: "length in 64 bits", in: frames(long(5, "hello"), bye), msgs: []string{"hello"}, code: 1000})
	add(script{name: "length in 16 bits", in: frames(appendMasked([]byte{fin | binary_, 0x80 | 126, 0, 5}, 7, []byte("hello")), hello, bye),
		msgs: []string{"hello", "hello"}, code: 1000})
	for _, long := range []struct {
		name string
		op   byte
		size []byte
	}{
		{"ping with its length in 16 bits", ping, []byte{0x80 | 126, 0, 5}},
		{"ping with its length in 64 bits", ping, []byte{0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5}},
		{"pong with its length in 16 bits", pong, []byte{0x80 | 126, 0, 5}},
		{"close with its length in 16 bits", closing, []byte{0x80 | 126, 0, 5}},
	} {
		add(script{name: long.name, code: 1002, msgs: []string{"hello"},
			in: frames(hello, appendMasked(append([]byte{fin | long.op}, long.size...), 7, []byte("\x03\xe8bye")), hello)})
	}
	add(script{name: "length 0 in 16 bits", in: appendMasked([]byte{fin | binary_, 0x80 | 126, 0, 0}, 7, nil), code: 1003})
	add(script{name: "length with the top bit", in: long(1<<63, ""), code: 1002})
	add(script{name: "length just below the top bit", in: long(1<<63-1, ""), code: 1009})
	add(script{name: "largest message", in: frames(frame(fin|binary_, filler(maxMessage)), hello, bye), msgs: []string{filler(maxMessage), "hello"}, code: 1000})
	add(script{name: "one byte too long, from the header", in: frame(fin|binary_, filler(maxMessage+1))[:4], code: 1009})
	add(script{name: "fragments too long together, from the header",
		in: frames(frame(binary_, filler(maxMessage-9)), frame(fin|continuation, "0123456789")[:2]), code: 1009})
	add(script{name: "fragments just not too long", in: frames(frame(binary_, filler(maxMessage-9)), frame(fin|continuation, "012345678"), bye),
		msgs: []string{filler(maxMessage-9) + "012345678"}, code: 1000})
	add(script{name: "one byte messages", in: frames(frame(fin|binary_, "a"), frame(fin|binary_, "b"), bye), msgs: []string{"a", "b"}, code: 1000})

	// Ends without a close frame.
	add(script{name: "nothing", in: nil, code: gone})
	add(script{name: "end after a message", in: hello, msgs: []string{"hello"}, code: gone})
	add(script{name: "end inside a header", in: hello[:3], code: gone})
	add(script{name: "end inside a payload", in: frames(hello, hello[:8]), msgs: []string{"hello"}, code: gone})
	add(script{name: "end inside a fragmented message", in: frames(first, middle), code: gone})
	add(script{name: "end after a ping", in: frame(fin|ping, "x"), pongs: []string{"x"}, code: gone})

	// A burst that fills the buffer more than once.
	var burst []byte
	var want []string
	for i := range 100 {
		msg := filler(50 + i*13)
		burst = append(burst, frame(fin|binary_, msg)...)
		want = append(want, msg)
	}
	add(script{name: "burst", in: frames(burst, bye), msgs: want, code: 1000})
	return all
}

func TestScripts(t *testing.T) {
	for _, s := range scripts() {
		t.Run(s.name, func(t *testing.T) { s.run(t) })
	}
}

func TestScriptsOverTLS(t *testing.T) {
	serverTLS, clientTLS := testTLS(t)
	for _, s := range scripts() {
		t.Run(s.name, func(t *testing.T) {
			s.check(t, "whole", overTLS(t, serverTLS, clientTLS, [][]byte{s.in}))
			if len(s.in) > 2000 {
				return
			}
			var bytewise [][]byte
			for i := range s.in {
				bytewise = append(bytewise, s.in[i:i+1])
			}
			s.check(t, "byte by byte", overTLS(t, serverTLS, clientTLS, bytewise))
		})
	}
}

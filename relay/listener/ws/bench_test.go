package ws_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/crosspod/crosspod/relay/listener"
	"github.com/crosspod/crosspod/relay/listener/ws"
)

var benchSizes = []int{100, 1200, 8000}

func BenchmarkUnmask(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			buf := make([]byte, size)
			b.SetBytes(int64(size))
			for b.Loop() {
				ws.Unmask(buf, 0x12345678)
			}
		})
	}
}

// BenchmarkNextMessage reads messages from a socket that is kept full.
func BenchmarkNextMessage(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			server, client := tcpPair(b)
			c := ws.NewTestConn(server, nil, nil, time.Second)
			defer c.Close()
			var batch []byte
			for len(batch) < 60<<10 {
				batch = appendFrame(batch, 0x82, 0x11223344, bytes.Repeat([]byte{1}, size))
			}
			go func() {
				for {
					if _, err := client.Write(batch); err != nil {
						return
					}
				}
			}()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			turns := 0
			for b.Loop() {
				msg, more, err := c.NextMessage()
				if err != nil || len(msg) != size {
					b.Fatal(len(msg), err)
				}
				if !more {
					turns++
				}
			}
			b.ReportMetric(float64(b.N)/float64(turns), "msgs/turn")
		})
	}
}

// BenchmarkWriteBatch writes batches of 64 kB to a reader that keeps up.
func BenchmarkWriteBatch(b *testing.B) {
	for _, size := range benchSizes {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			server, client := tcpPair(b)
			c := ws.NewTestConn(server, nil, nil, time.Second)
			defer c.Close()
			go io.Copy(io.Discard, client)
			head, body := make([]byte, 38), make([]byte, size-38)
			batch := make([]byte, 0, 64<<10)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if cap(batch)-len(batch) < size+8 {
					if _, err := c.WriteBatch(batch); err != nil {
						b.Fatal(err)
					}
					batch = batch[:0]
				}
				batch = c.AppendMessage(batch, head, body)
			}
		})
	}
}

// BenchmarkCopy is the floor: read and write 64 kB at a time, nothing else.
func BenchmarkCopy(b *testing.B) {
	server, client := tcpPair(b)
	go func() {
		chunk := make([]byte, 60<<10)
		for {
			if _, err := client.Write(chunk); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	var n int64
	for b.Loop() {
		m, err := server.Read(buf)
		if err != nil {
			b.Fatal(err)
		}
		n += int64(m)
	}
	b.SetBytes(n / int64(b.N))
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n)*1200, "ns/1200B")
}

func tcpPair(tb testing.TB) (server, client net.Conn) {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer ln.Close()
	client, err = net.Dial("tcp", ln.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	server, err = ln.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

// BenchmarkConnect is a connection from dial to the first message and its end.
// Most of it is the client and the kernel.
func BenchmarkConnect(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	l := ws.New(ws.Config{})
	served := make(chan error, 1)
	go func() {
		served <- l.Serve(ln, nil, func(c listener.Conn) {
			if _, _, err := c.NextMessage(); err == nil {
				c.Established()
			}
			c.Close()
		})
	}()
	request := append(fmt.Appendf(nil, upgrade, ""), frame(fin|binary_, "auth")...)
	answer := make([]byte, 1024)
	b.ReportAllocs()
	for b.Loop() {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		c.Write(request)
		for err == nil {
			_, err = c.Read(answer)
		}
		c.Close()
	}
	l.Close()
	if err := <-served; err != nil {
		b.Fatal(err)
	}
}

package main

import (
	"fmt"
	"io"
	"net"
	"time"
)

// copier joins TCP connections in pairs, the first with the second and so on, and
// copies both ways between them by [io.Copy], which on Linux is splice: the bytes
// never enter the process. It is the least that a relay in Go without an event
// loop of its own can do, and knows nothing of messages. It prints where it
// listens and ends with its parent.
func copier() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	for {
		a, err := ln.Accept()
		if err != nil {
			return err
		}
		b, err := ln.Accept()
		if err != nil {
			return err
		}
		for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
			go func() {
				_, _ = io.Copy(way[0], way[1]) // an error is the end of the pair and nothing more
				a.Close()
				b.Close()
			}()
		}
	}
}

// copiedPairs connects n pairs through the copier.
func (t *target) copiedPairs(n int) (pairs []pair, err error) {
	for range n {
		var sides [2]*peer
		for i := range sides {
			conn, err := net.DialTimeout("tcp", t.servers[0].addr.hostPort, 10*time.Second)
			if err != nil {
				closeAll(pairs)
				return nil, err
			}
			sides[i] = &peer{id: newID(), conn: conn, in: frameReader{r: conn, buf: make([]byte, busyBuffer)}}
		}
		pairs = append(pairs, pair{sides[0], sides[1]})
	}
	return pairs, nil
}

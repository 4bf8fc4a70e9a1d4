package store_test

import (
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/store"
)

// peer is a connection that only has an id; two of them are never the same.
type peer struct {
	id   messages.PeerID
	name string
}

func (p *peer) ID() messages.PeerID { return p.id }

func newPeer(name string) *peer { return &peer{messages.HashID(name), name} }

// numbered returns the i-th of many ids that differ like hashes do.
func numbered(i int) messages.PeerID {
	id := messages.PeerID{'s', 'h', 'a', '-'}
	x := uint64(i + 1)
	for w := range 4 {
		x ^= x >> 30
		x *= 0xbf58476d1ce4e5b9
		x ^= x >> 27
		binary.LittleEndian.PutUint64(id[4+8*w:], x)
	}
	return id
}

func fill(s *store.Store, n int) {
	for i := range n {
		s.Add(&peer{id: numbered(i)})
	}
}

func BenchmarkPeer(b *testing.B) {
	for _, n := range []int{1, 10_000, 100_000} {
		s := store.New()
		fill(s, n)
		// The order of asking is not the order of adding, so that memory is
		// touched as by real traffic.
		asked := make([]messages.PeerID, 4096)
		for i := range asked {
			asked[i] = numbered(i * 7919 % n)
		}
		b.Run(fmt.Sprintf("hit/peers=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, ok := s.Peer(asked[i%len(asked)]); !ok {
					b.Fatal("not found")
				}
				i++
			}
		})
		b.Run(fmt.Sprintf("miss/peers=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			absent := numbered(-2)
			for b.Loop() {
				if _, ok := s.Peer(absent); ok {
					b.Fatal("found")
				}
			}
		})
		b.Run(fmt.Sprintf("parallel/peers=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				i := 0
				for pb.Next() {
					if _, ok := s.Peer(asked[i%len(asked)]); !ok {
						b.Error("not found")
					}
					i++
				}
			})
		})
	}
}

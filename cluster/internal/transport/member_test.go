package transport

import (
	"net"
	"testing"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/handshake"
	"github.com/crosspod/crosspod/cluster/internal/mesh"
	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// member is a pod that has the secret and breaks the rules.
type member struct {
	*handshake.Conn
	sock net.Conn
}

// member links a pod at 10.0.0.66 to the pod at host, as leader or follower.
// have is what its PROOF says.
func (r *rig) member(host string, to wire.PodID, leads bool, have uint64) *member {
	r.t.Helper()
	keys, err := handshake.NewKeyRing(rigSecret)
	if err != nil {
		r.t.Fatal(err)
	}
	incarnation := uint64(1)
	for mesh.Leads(wire.NewPodID("10.0.0.66:7090", incarnation), to) != leads {
		incarnation++
	}
	pod, err := handshake.New(handshake.Config{
		Address: "10.0.0.66:7090", Incarnation: incarnation, Keys: keys,
		Have: func(wire.PodID) uint64 { return have },
	})
	if err != nil {
		r.t.Fatal(err)
	}
	sock, err := r.net.Host("10.0.0.66").Dial(r.t.Context(), "tcp", host+":7090")
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := pod.Dial(r.t.Context(), sock)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = sock.Close() })
	return &member{c, sock}
}

// TestHighestSessionNumber: a pod that uses up the numbers of sessions has used
// up its own.
func TestHighestSessionNumber(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leads bool
		have  uint64
	}{
		{"in USE", true, 0},
		{"in PROOF", false, 1<<64 - 2},
		{"the last one in PROOF", false, 1<<64 - 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, time.Millisecond, func(t *testing.T, r *rig) {
				r.resolves("10.0.0.1", "10.0.0.2")
				a := r.pod("10.0.0.1").start()
				m := r.member("10.0.0.1", a.id(), tt.leads, tt.have)
				if tt.leads {
					if _, err := m.TLS.Write(wire.AppendUse(nil, 1<<64-1)); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(100 * time.Millisecond)
				// Pods that a leads are among them.
				for range 8 {
					b := r.pod("10.0.0.2").start()
					r.within(5*time.Second, "a link", func() bool { return b.linked(a) })
					if n := a.log.count("session=0"); n > 0 {
						t.Fatal("another pod was told of session 0, which is none")
					}
					b.crash()
					time.Sleep(2 * linkGrace)
				}
			})
		})
	}
}

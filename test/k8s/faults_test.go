package k8s_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/test/k8s/load"
)

// scene is a release of three pods, peers through the load balancer, and what says
// whom a fault of one pod concerns: pairs on the two other pods, and a peer on
// the pod with somebody who watches it from another pod.
type scene struct {
	*peers
	victim    pod
	elsewhere *load.Load
	watcher   *client.Presence
}

// stage starts a scene whose victim is not on node-1, where peers run.
func (r *release) stage(t *testing.T) *scene {
	t.Helper()
	eventually(t, "full mesh", func() error { return r.mesh(t.Context(), 3) })
	s := new(scene)
	var others []string
	for _, p := range r.pods(t) {
		if s.victim.Metadata.Name == "" && p.Spec.NodeName != "node-1" {
			s.victim = p
		} else {
			others = append(others, r.url(p.Status.PodIP, 8443))
		}
	}
	t.Logf("the victim is %s on %s", s.victim.Metadata.Name, s.victim.Spec.NodeName)
	s.peers = r.talk(t)
	name := fmt.Sprintf("elsewhere-%d", time.Now().UnixNano())
	var err error
	if s.elsewhere, err = load.Start(t.Context(), load.Config{Name: name, URLs: others, Secret: r.secret, Ours: 3, Rate: rate}); err != nil {
		t.Fatal(err)
	}
	dial := func(url, name string) *client.Client {
		c, err := client.Dial(t.Context(), client.Config{URL: url, Name: name, Token: client.SecretToken(r.secret, time.Hour)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() }) // always nil
		return c
	}
	subject := dial(r.url(s.victim.Status.PodIP, 8443), name+"-subject")
	if s.watcher, err = dial(others[0], name+"-watcher").Subscribe(messages.HashID(name + "-subject")); err != nil {
		t.Fatal(err)
	}
	if e := <-s.watcher.Events(); !e.Online || e.ID != subject.PeerID() {
		t.Fatalf("the peer on the victim: %+v", e)
	}
	pause(steady)
	return s
}

// toldOffline waits for the news that the victim's peer is offline, and logs when
// it came.
func (s *scene) toldOffline(t *testing.T, from time.Time) {
	t.Helper()
	select {
	case e := <-s.watcher.Events():
		t.Logf("subscribers knew after %.1f s: online %v", time.Since(from).Seconds(), e.Online)
	case <-time.After(patience):
		t.Error("subscribers were never told")
	}
}

// end ends the scene. Pairs on the other pods have lost nothing.
func (s *scene) end(t *testing.T, scenario string) {
	t.Helper()
	report := s.elsewhere.Stop()
	record(scenario+", pairs on other pods", report)
	nothingLost(t, report)
	s.peers.end(t, scenario)
}

// TestFaults breaks one pod or its node. Peers elsewhere notice nothing.
func TestFaults(t *testing.T) {
	l := lab(t)
	for _, tool := range []string{"power", "net"} {
		if _, err := os.Stat(l.tools + "/" + tool); err != nil {
			t.Skip(err)
		}
	}
	r := install(t, l.image)
	t.Run("pod deleted by force", func(t *testing.T) {
		s := r.stage(t)
		from := time.Now()
		r.kubectl(t, "delete", "pod", s.victim.Metadata.Name, "--grace-period=0", "--force", "--wait=false")
		s.toldOffline(t, from)
		r.settle(t, 3)
		pause(steady)
		s.end(t, "4a. pod deleted by force")
	})
	t.Run("node delays 50 ms and loses 2 %", func(t *testing.T) {
		s := r.stage(t)
		node := s.victim.Spec.NodeName
		t.Cleanup(func() { l.fault(t, "net", node, "clear") })
		l.fault(t, "net", node, "bad", "delay", "50ms", "loss", "2")
		pause(15 * time.Second)
		l.fault(t, "net", node, "clear")
		pause(steady)
		s.end(t, "4d. node delays 50 ms and loses 2 %, 15 s")
		if err := r.mesh(t.Context(), 3); err != nil {
			t.Error(err)
		}
	})
	t.Run("node unplugged", func(t *testing.T) {
		s := r.stage(t)
		node := s.victim.Spec.NodeName
		t.Cleanup(func() { l.fault(t, "net", node, "up") })
		from := time.Now()
		l.fault(t, "net", node, "down")
		s.toldOffline(t, from)
		pause(30*time.Second - time.Since(from))
		l.fault(t, "net", node, "up")
		back := time.Now()
		eventually(t, "full mesh", func() error { return r.mesh(t.Context(), 3) })
		t.Logf("every pod was linked to every other %.1f s after the cable was back", time.Since(back).Seconds())
		pause(steady)
		s.end(t, "4c. node unplugged for 30 s")
		r.settle(t, 3)
	})
	t.Run("node without power", func(t *testing.T) {
		s := r.stage(t)
		node := s.victim.Spec.NodeName
		t.Cleanup(func() {
			l.fault(t, "power", node, "on")
			kubectl(t, "wait", "--for=condition=Ready", "node/"+node, "--timeout=120s")
		})
		from := time.Now()
		l.fault(t, "power", node, "off")
		s.toldOffline(t, from)
		pause(30*time.Second - time.Since(from))
		s.end(t, "4b. node without power, the first 30 s")
	})
}

func podNamed(ctx context.Context, l *theLab, namespace, name string) (p pod, err error) {
	err = l.get(ctx, "/api/v1/namespaces/"+namespace+"/pods/"+name, &p)
	return p, err
}

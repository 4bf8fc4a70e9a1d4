package relay_test

import (
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/test/memnet"
	"github.com/crosspod/crosspod/relay"
)

// A server whose Config has a cluster joins it with its first Listen and leaves it, last,
// with Shutdown or Close.
func TestServerJoinsAndLeavesItsCluster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(memnet.Config{Latency: podLatency})
		config := func(ip string) relay.Config {
			return relay.Config{ExposedAddress: "relay.test:80", AuthValidator: auth.NewValidator(secret), Cluster: &cluster.Config{
				StaticPeers: []string{"10.0.0.1", "10.0.0.2"}, PodIP: ip, AuthSecret: clusterSecret,
				Listen: func(network, address string) (net.Listener, error) { return n.Host(ip).Listen(network, address) },
				Dial:   n.Host(ip).Dial,
			}}
		}
		pods, served := map[string]*relay.Server{}, make(chan error, 4)
		for _, ip := range []string{"10.0.0.1", "10.0.0.2"} {
			s, err := relay.NewServer(config(ip))
			if err != nil {
				t.Fatal(err)
			}
			if s.Cluster() != nil {
				t.Error("in the cluster before Listen")
			}
			for _, port := range []string{":80", ":81"} {
				ln, err := n.Host(ip).Listen("tcp", ip+port)
				if err != nil {
					t.Fatal(err)
				}
				go func() { served <- s.Listen(relay.ListenerConfig{Listener: ln}) }()
			}
			pods[ip] = s
		}
		for _, s := range pods {
			if err := s.WaitReady(t.Context()); err != nil {
				t.Fatal(err)
			}
			status := s.Cluster().Status()
			if len(status.Pods) != 1 || status.Pods[0].State != cluster.PodUp {
				t.Errorf("a pod knows of %+v", status)
			}
		}
		if err := pods["10.0.0.1"].Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(podLatency)
		if left := pods["10.0.0.2"].Cluster().Status().Pods; len(left) > 0 && left[0].State == cluster.PodUp {
			t.Errorf("the pod that was shut down is %+v to the other", left[0])
		}
		if err := pods["10.0.0.2"].Close(); err != nil {
			t.Error(err)
		}
		for range cap(served) {
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
		again, err := n.Host("10.0.0.1").Listen("tcp", "10.0.0.1:82")
		if err != nil {
			t.Fatal(err)
		}
		if err := pods["10.0.0.1"].Listen(relay.ListenerConfig{Listener: again}); err != nil {
			t.Errorf("Listen after Shutdown: %v", err)
		}

		// What cannot be joined is an error, and nothing is left listening.
		wrong := config("nowhere")
		s, err := relay.NewServer(wrong)
		if err != nil {
			t.Fatal(err)
		}
		ln, err := n.Host("10.0.0.3").Listen("tcp", "10.0.0.3:80")
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Listen(relay.ListenerConfig{Listener: ln}); err == nil {
			t.Error("joined as an address that is none")
		}
		if _, err := ln.Accept(); err == nil {
			t.Error("a listener is left")
		}
		_ = s.Close()

		// A join that takes long holds up no other call, and one that ends after Close is undone.
		slow, opens := config("10.0.0.4"), make(chan struct{})
		listen := slow.Cluster.Listen
		slow.Cluster.Listen = func(network, address string) (net.Listener, error) {
			<-opens
			return listen(network, address)
		}
		if s, err = relay.NewServer(slow); err != nil {
			t.Fatal(err)
		}
		if ln, err = n.Host("10.0.0.4").Listen("tcp", "10.0.0.4:80"); err != nil {
			t.Fatal(err)
		}
		go func() { served <- s.Listen(relay.ListenerConfig{Listener: ln}) }()
		synctest.Wait()
		_ = s.Close()
		close(opens)
		if err := <-served; err != nil || s.Cluster() != nil {
			t.Errorf("Close while joining: %v, in a cluster: %v", err, s.Cluster() != nil)
		}

		wrong.CrossPodForwarder = &cluster.Forwarder{}
		if _, err := relay.NewServer(wrong); err == nil {
			t.Error("two clusters were taken")
		}
	})
}

package relay_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// A relay inside another program, on an address of its own.
func ExampleServer() {
	const secret = "an example's secret, 32 bytes or more"
	ln, err := net.Listen("tcp", "127.0.0.1:0") // or give ListenerConfig an Address
	if err != nil {
		log.Panic(err)
	}
	server, err := relay.NewServer(relay.Config{
		ExposedAddress: ln.Addr().String(), // what peers are told
		AuthValidator:  auth.NewValidator(secret),
	})
	if err != nil {
		log.Panic(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Listen(relay.ListenerConfig{Listener: ln}) }()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	connect := func(name string) *client.Client {
		c, err := client.Dial(ctx, client.Config{
			URL:   server.InstanceURL(),
			Name:  name,
			Token: client.SecretToken(secret, time.Hour),
		})
		if err != nil {
			log.Panic(err)
		}
		return c
	}
	alice, bob := connect("alice"), connect("bob")
	toBob, err := alice.OpenConn(ctx, messages.HashID("bob")) // waits until bob is online
	if err != nil {
		log.Panic(err)
	}
	if _, err := toBob.Write([]byte("hello bob")); err != nil {
		log.Panic(err)
	}
	fromAlice, err := bob.AcceptConn(ctx)
	if err != nil {
		log.Panic(err)
	}
	buf := make([]byte, messages.MaxPayloadSize)
	n, err := fromAlice.Read(buf)
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("bob reads %q; the relay has %d peers\n", buf[:n], server.Store().Len())

	// Everyone is sent a Close message, and has gone when Shutdown returns.
	if err := server.Shutdown(ctx); err != nil {
		log.Panic(err)
	}
	_, _ = alice.Close(), bob.Close()
	fmt.Println("Listen returned", <-served)
	// Output:
	// bob reads "hello bob"; the relay has 2 peers
	// Listen returned <nil>
}

// Two pods in one process. As a rule each is a process of its own, and Headless
// is a name that resolves to all of them.
func ExampleServer_cluster() {
	const (
		secret    = "an example's secret, 32 bytes or more"
		podSecret = "another one, which only the pods know"
	)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			log.Panic(err)
		}
		return ln
	}
	links := []net.Listener{listen(), listen()} // for the links between the pods
	addresses := []string{links[0].Addr().String(), links[1].Addr().String()}

	type pod struct {
		address string
		server  *relay.Server
		served  chan error
	}
	var pods []*pod
	for i := range links {
		server, err := relay.NewServer(relay.Config{
			ExposedAddress: "rel://relay.example.com:80", // of the load balancer: the same on every pod
			AuthValidator:  auth.NewValidator(secret),
			Cluster: &cluster.Config{
				StaticPeers:   addresses,
				PodIP:         "127.0.0.1",
				ListenAddress: addresses[i],
				AuthSecret:    podSecret,
				TokenSecrets:  []string{secret}, // a pod that has no such secret is not linked to
				Listen:        func(string, string) (net.Listener, error) { return links[i], nil },
			},
		})
		if err != nil {
			log.Panic(err)
		}
		ln := listen()
		p := &pod{"rel://" + ln.Addr().String(), server, make(chan error, 1)}
		go func() { p.served <- server.Listen(relay.ListenerConfig{Listener: ln}) }()
		pods = append(pods, p)
	}
	for _, p := range pods {
		if err := p.server.WaitReady(ctx); err != nil { // what a readiness probe waits for
			log.Panic(err)
		}
	}

	connect := func(p *pod, name string) *client.Client {
		c, err := client.Dial(ctx, client.Config{URL: p.address, Name: name, Token: client.SecretToken(secret, time.Hour)})
		if err != nil {
			log.Panic(err)
		}
		return c
	}
	alice, bob := connect(pods[0], "alice"), connect(pods[1], "bob")
	toBob, err := alice.OpenConn(ctx, messages.HashID("bob")) // waits until bob is online, on any pod
	if err != nil {
		log.Panic(err)
	}
	if _, err := toBob.Write([]byte("hello bob")); err != nil {
		log.Panic(err)
	}
	fromAlice, err := bob.AcceptConn(ctx)
	if err != nil {
		log.Panic(err)
	}
	buf := make([]byte, messages.MaxPayloadSize)
	n, err := fromAlice.Read(buf)
	if err != nil {
		log.Panic(err)
	}
	fmt.Printf("bob reads %q\n", buf[:n])

	for _, p := range pods {
		if err := p.server.Shutdown(ctx); err != nil {
			log.Panic(err)
		}
		fmt.Println("Listen returned", <-p.served)
	}
	_, _ = alice.Close(), bob.Close()
	// Output:
	// bob reads "hello bob"
	// Listen returned <nil>
	// Listen returned <nil>
}

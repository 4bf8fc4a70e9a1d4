package relay_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/messages"
	"github.com/crosspod/crosspod/relay"
)

// A relay inside another program, on an address of its own.
func ExampleServer() {
	const secret = "an example's secret, 32 bytes or more"
	ln, err := net.Listen("tcp", "127.0.0.1:0") // or give ListenerConfig an Address
	if err != nil {
		log.Fatal(err)
	}
	server, err := relay.NewServer(relay.Config{
		ExposedAddress: ln.Addr().String(), // what peers are told
		AuthValidator:  auth.NewValidator(secret),
	})
	if err != nil {
		log.Fatal(err)
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
			log.Fatal(err)
		}
		return c
	}
	alice, bob := connect("alice"), connect("bob")
	toBob, err := alice.OpenConn(ctx, messages.HashID("bob")) // waits until bob is online
	if err != nil {
		log.Fatal(err)
	}
	if _, err := toBob.Write([]byte("hello bob")); err != nil {
		log.Fatal(err)
	}
	fromAlice, err := bob.AcceptConn(ctx)
	if err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, messages.MaxPayloadSize)
	n, err := fromAlice.Read(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("bob reads %q; the relay has %d peers\n", buf[:n], server.Store().Len())

	// Everyone is sent a Close message, and has gone when Shutdown returns.
	if err := server.Shutdown(ctx); err != nil {
		log.Fatal(err)
	}
	_, _ = alice.Close(), bob.Close()
	fmt.Println("Listen returned", <-served)
	// Output:
	// bob reads "hello bob"; the relay has 2 peers
	// Listen returned <nil>
}

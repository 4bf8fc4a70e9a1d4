package client_test

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

const exampleSecret = "an example's secret, 32 bytes or more"

// startExampleRelay starts a relay on loopback and returns its address.
func startExampleRelay() (url string, stop func()) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	url = "rel://" + ln.Addr().String()
	server, err := relay.NewServer(relay.Config{
		ExposedAddress: url,
		AuthValidator:  auth.NewValidator(exampleSecret),
	})
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Listen(relay.ListenerConfig{Listener: ln}) }()
	return url, func() {
		_ = server.Close()
		<-served
	}
}

// connect connects a peer to the relay at url.
func connect(ctx context.Context, url, name string) *client.Client {
	c, err := client.Dial(ctx, client.Config{
		URL:   url,
		Name:  name,
		Token: client.SecretToken(exampleSecret, time.Hour),
	})
	if err != nil {
		log.Fatal(err)
	}
	return c
}

func ExampleDial() {
	url, stop := startExampleRelay() // yours runs elsewhere
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{
		URL:   url,
		Name:  "alice",
		Token: client.SecretToken(exampleSecret, time.Hour),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	fmt.Println(c.State(), "as", c.PeerID())
	fmt.Println("the relay calls itself what we dialled:", c.InstanceURL() == url)
	// Output:
	// connected as sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpA=
	// the relay calls itself what we dialled: true
}

func ExampleClient_OpenConn() {
	url, stop := startExampleRelay()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	// Bob answers every peer that writes to him.
	bob := connect(ctx, url, "bob")
	defer bob.Close()
	go func() {
		for {
			conn, err := bob.AcceptConn(ctx)
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buf := make([]byte, messages.MaxPayloadSize)
				for {
					n, err := conn.Read(buf)
					if err != nil {
						return // net.ErrClosed, or client.ErrPeerOffline
					}
					fmt.Fprintf(conn, "you said %q", buf[:n])
				}
			}()
		}
	}()

	alice := connect(ctx, url, "alice")
	defer alice.Close()
	conn, err := alice.OpenConn(ctx, messages.HashID("bob"))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		log.Fatal(err)
	}
	// A message may be lost: never wait for one without a deadline.
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, messages.MaxPayloadSize)
	n, err := conn.Read(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", buf[:n])
	// Output:
	// you said "hello"
}

func ExampleClient_PacketConn() {
	url, stop := startExampleRelay()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	alice, bob := connect(ctx, url, "alice"), connect(ctx, url, "bob")
	defer alice.Close()
	defer bob.Close()

	out, in := alice.PacketConn(), bob.PacketConn()
	if _, err := out.WriteTo([]byte("a datagram"), client.Addr(bob.PeerID())); err != nil {
		log.Fatal(err)
	}
	if err := in.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, messages.MaxPayloadSize)
	n, from, err := in.ReadFrom(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, from alice: %t\n", buf[:n], from == client.Addr(alice.PeerID()))
	// Output:
	// a datagram, from alice: true
}

func ExampleClient_Subscribe() {
	url, stop := startExampleRelay()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	alice := connect(ctx, url, "alice")
	defer alice.Close()
	presence, err := alice.Subscribe(messages.HashID("bob"))
	if err != nil {
		log.Fatal(err)
	}
	defer presence.Close()

	bob := connect(ctx, url, "bob")
	e := <-presence.Events()
	fmt.Println("bob online:", e.Online)
	_ = bob.Close()
	e = <-presence.Events()
	fmt.Println("bob online:", e.Online)
	// Output:
	// bob online: true
	// bob online: false
}

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/crosspod/crosspod/client"
	"github.com/crosspod/crosspod/internal/setting"
	"github.com/crosspod/crosspod/messages"
)

const (
	// exchangePause is the time between two attempts: the name may still lead to
	// pods that have gone, or pods may be about to link.
	exchangePause = time.Second
	// exchangePatience bounds the wait for one peer to connect and for one message.
	exchangePatience = 5 * time.Second
)

// exchangeOptions are the options of `relay cluster exchange`.
type exchangeOptions struct {
	access
	pods    string
	timeout time.Duration
}

func (p *program) exchangeCommand() *command {
	var o exchangeOptions
	var s setting.Set
	s.Duration(&o.timeout, "timeout", time.Minute, "`TIME` after which it gives up; until then it tries again")
	o.addURL("rel://relay", "`ADDRESS` of the relay: rel://, or rels:// when the pods have a certificate for its host; or the variable RELAY_URL")
	o.addSecret()
	o.addTLS()
	return &command{
		name: "exchange", argument: "PODS", short: "connect a peer to each pod and send a message between each two",
		about: "PODS are the addresses at which the pods listen for peers, with a comma between: host:port, where a host " +
			"may be a name that leads to several pods. Exits with 0 when every message has arrived.",
		examples: []string{
			"relay cluster exchange relay-pods:8443 --secret-file secrets",
			"relay cluster exchange 10.0.0.1:443,10.0.0.2:443 --url rels://example.com",
		},
		options: []*setting.Set{&s, &o.set},
		run: func(ctx context.Context, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("the addresses of the pods are missing: relay cluster exchange relay-pods:8443"), "relay cluster exchange"}
			}
			o.pods = args[0]
			if err := o.read(p.lookupEnv); err != nil {
				return usageError{err, "relay cluster exchange"}
			}
			return p.exchange(ctx, &o)
		},
	}
}

// exchange tries until every message arrives or the time is over.
func (p *program) exchange(ctx context.Context, o *exchangeOptions) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var last error
	for {
		err := p.exchangeOnce(ctx, o)
		if usage, ok := errors.AsType[usageError](err); ok {
			usage.command = "relay cluster exchange"
			return usage
		}
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil { // else it was cut short
			last = err
		}
		select {
		case <-time.After(exchangePause):
			p.say(fmt.Sprintf("%v: trying again\n", err))
		case <-ctx.Done():
			return last
		}
	}
}

// podPeer is the peer that is connected to one pod.
type podPeer struct {
	*client.Client
	pod string
}

// exchangeOnce connects a peer to each pod and sends a message from each to each of
// the others; with a single pod from its peer to itself.
func (p *program) exchangeOnce(ctx context.Context, o *exchangeOptions) error {
	pods, err := lookUpPods(ctx, o.pods)
	if err != nil {
		return err
	}
	trust, err := o.tlsConfig()
	if err != nil {
		return usageError{err, ""}
	}
	var peers []podPeer
	for _, pod := range pods {
		name := "exchange-" + rand.Text()
		tokens, err := o.tokens(name)
		if err != nil {
			return err
		}
		connecting, cancel := context.WithTimeout(ctx, exchangePatience)
		c, err := client.Dial(connecting, client.Config{
			URL: o.url, Name: name, Token: tokens, TLSConfig: trust,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, pod)
			},
		})
		cancel()
		if err != nil {
			return fmt.Errorf("connect to the pod at %s: %w", pod, err)
		}
		defer c.Close()
		peers = append(peers, podPeer{c, pod})
	}
	for _, from := range peers {
		for _, to := range peers {
			if from.pod == to.pod && len(peers) > 1 {
				continue
			}
			took, err := sendBetween(ctx, from, to)
			if err != nil {
				return fmt.Errorf("from %s to %s: %w", from.pod, to.pod, err)
			}
			fmt.Fprintf(p.stdout, "%s → %s  %v\n", from.pod, to.pod, took.Round(10*time.Microsecond))
		}
	}
	return nil
}

// sendBetween sends a random message and returns how long it took to arrive.
func sendBetween(ctx context.Context, from, to podPeer) (time.Duration, error) {
	message := make([]byte, messages.MaxPayloadSize)
	_, _ = rand.Read(message) // never fails
	begun := time.Now()
	deadline, _ := ctx.Deadline()
	in := to.PacketConn()
	if err := in.SetReadDeadline(slices.MinFunc([]time.Time{deadline, begun.Add(exchangePatience)}, time.Time.Compare)); err != nil {
		return 0, err
	}
	if _, err := from.PacketConn().WriteTo(message, client.Addr(to.PeerID())); err != nil {
		return 0, err
	}
	got := make([]byte, messages.MaxPayloadSize)
	n, sender, err := in.ReadFrom(got)
	switch {
	case err != nil:
		return 0, fmt.Errorf("the message did not arrive: %w", err)
	case sender != client.Addr(from.PeerID()) || !bytes.Equal(got[:n], message):
		return 0, errors.New("another message arrived")
	}
	return time.Since(begun), nil
}

// lookUpPods returns the addresses of all pods, each once.
func lookUpPods(ctx context.Context, list string) (pods []string, err error) {
	for _, address := range strings.Split(list, ",") {
		host, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, usageError{fmt.Errorf("%q is no address of a pod: want host:port", address), ""}
		}
		ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		if err != nil {
			return nil, fmt.Errorf("look up the pods: %w", err)
		}
		slices.SortFunc(ips, netip.Addr.Compare)
		for _, ip := range ips {
			pods = append(pods, net.JoinHostPort(ip.Unmap().String(), port))
		}
	}
	slices.Sort(pods)
	return slices.Compact(pods), nil
}

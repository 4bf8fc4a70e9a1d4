package main

import (
	"context"
	"net"
	"strings"

	"go.opentelemetry.io/otel/metric"

	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/relay"
)

// clusterConfig returns how this pod joins the others; nil: it is alone. What
// fails here was set wrongly.
func (p *pod) clusterConfig(meter metric.Meter, texts secretTexts) (*relay.ClusterBootstrapConfig, error) {
	c := &p.cfg.Cluster
	if !c.Wanted() {
		return nil, nil
	}
	var ips []string
	for _, ip := range c.PodIPs {
		ips = append(ips, ip.String())
	}
	// A former address is what peers were told: with a scheme.
	scheme, _, _ := strings.Cut(p.relay.InstanceURL(), "://")
	var former []string
	for _, address := range c.FormerExposed {
		if !strings.Contains(address, "://") {
			address = scheme + "://" + address
		}
		former = append(former, address)
	}
	cfg := &relay.ClusterBootstrapConfig{
		Headless:        c.Headless,
		StaticPeers:     c.Addresses(),
		Port:            c.ClusterPort(),
		PodIP:           strings.Join(ips, ","),
		ListenAddress:   c.ListenAddress,
		InstanceURL:     p.relay.InstanceURL(),
		TokenSecrets:    texts.tokens,
		FormerInstances: former,
		Interval:        c.Interval,
		Meter:           meter,
		Logger:          p.log.Logger,
	}
	if secrets := texts.cluster; len(secrets) > 0 {
		cfg.AuthSecret, cfg.FurtherSecrets = secrets[0], secrets[1:]
	}
	if c.DNS.IsValid() {
		resolver, err := cluster.NewResolver(cluster.Config{Headless: cfg.Headless, Static: cfg.StaticPeers, Port: cfg.Port}, askAt(c.DNS.String()))
		if err != nil {
			return nil, err
		}
		cfg.Resolver = resolver
	}
	return cfg, nil
}

// askAt returns a resolver that asks the name server at address and no other.
func askAt(address string) *net.Resolver {
	var dialer net.Dialer
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, network, address)
	}}
}

// join links this pod to the others and has the relay reach their peers.
func (p *pod) join(ctx context.Context) (err error) {
	if p.fabric == nil {
		return nil
	}
	if p.others, err = relay.StartCluster(ctx, p.relay.Store(), *p.fabric); err != nil {
		return err
	}
	p.relay.SetCrossPodForwarder(p.others.Forwarder)
	return nil
}

// clusterStatus returns what operators are told of the other pods; nil: there
// are none.
func (p *pod) clusterStatus() any {
	if p.others == nil {
		return nil
	}
	return p.others.Status()
}

// awaitOthers waits until this pod may be given peers: it takes from the other
// pods what puts connections in order. It reports false when ctx ended first.
func (p *pod) awaitOthers(ctx context.Context) bool {
	return p.others == nil || p.others.WaitReady(ctx) == nil
}

// leave tells the other pods that this one goes. Its peers have gone before.
func (p *pod) leave() {
	if p.others != nil {
		p.others.Stop()
		p.log.Info("left the other pods")
	}
}

// changeClusterSecrets takes what the file holds now, which was checked.
func (p *pod) changeClusterSecrets(secrets []string) {
	if err := p.others.SetSecrets(secrets...); err != nil {
		p.log.Warn("cluster secrets not usable, they stay as they are", "file", p.cfg.Cluster.SecretFile, "err", err)
	}
}

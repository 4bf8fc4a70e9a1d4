package cluster

import (
	"cmp"
	"errors"
	"net"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
)

// NewResolver returns what [Start] makes of Headless, StaticPeers and Port of c,
// for [Config.Resolver], with one difference: names are asked of dns, so that
// they may be those of another name server than the system's.
func NewResolver(c Config, dns *net.Resolver) (Resolver, error) {
	c.Resolver = nil
	return newResolver(&c, discovery.Strictly(dns))
}

// newResolver returns what finds the pods that c names. lookup may be nil.
func newResolver(c *Config, lookup discovery.Lookup) (Resolver, error) {
	if c.Resolver != nil {
		return c.Resolver, nil
	}
	if c.Headless == "" && len(c.StaticPeers) == 0 {
		return nil, errors.New("cluster: Config.Headless is required, a name that resolves to every pod, or StaticPeers")
	}
	return discovery.Names(c.Headless, c.StaticPeers, cmp.Or(c.Port, DefaultInterpodPort), lookup)
}

package cluster

import "net"

// NewResolver returns what [Start] makes of Headless and Static and Port of c,
// for [Config.Resolver], with one difference: names are asked of dns, so that
// they may be those of another name server than the system's.
func NewResolver(c Config, dns *net.Resolver) (Resolver, error) {
	c.Resolver = nil
	r, err := newResolver(&c)
	if err != nil {
		return nil, err
	}
	r.(*names).lookup = strictly(dns)
	return r, nil
}

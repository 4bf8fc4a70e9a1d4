package transport

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/discovery"
	"github.com/crosspod/crosspod/cluster/internal/metrics"
	"github.com/crosspod/crosspod/cluster/internal/status"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/internal/drop"
)

// TestMixedVersions: pods of this version and of one that is made up, the next, link,
// and pods without a version in common know why they do not (F15).
func TestMixedVersions(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a, old, strict := r.pod("10.0.0.1"), r.pod("10.0.0.2"), r.pod("10.0.0.3")
		a.transport.maxVersion = wire.Version + 1
		strict.transport.minVersion, strict.transport.maxVersion = wire.Version+1, wire.Version+1
		for _, p := range []*rigPod{a, old, strict} {
			p.start()
		}
		r.within(time.Second, "links", func() bool {
			return a.linked(old, strict) && old.linked(a) && strict.linked(a)
		})
		time.Sleep(3 * time.Second)
		a.send(old, "to the old one")
		old.send(a, "from the old one")
		r.within(time.Second, "messages", func() bool { return old.received("to the old one") && a.received("from the old one") })
		_, pods := a.transport.Status()
		for _, p := range pods {
			want := wire.Version + 1
			if p.Address == "10.0.0.2:7090" {
				want = wire.Version
			}
			if p.Protocol != want || p.State != status.Up {
				t.Errorf("%s is %s with version %d", p.Address, p.State, p.Protocol)
			}
		}
		if got := reasons(strict)["10.0.0.2:7090"]; got != "version" {
			t.Errorf("the strict one knows %q", got)
		}
		if got := reasons(old)["10.0.0.3:7090"]; got != "version" {
			t.Errorf("the old one knows %q", got)
		}
	})
}

// TestRotation: with [new, old] beside [old] pods link and go on, one rollout
// after another, and lose nothing.
func TestRotation(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		const older, newer = rigSecret, "a newer secret of a cluster for tests"
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		var pods []*rigPod
		for i := range 3 {
			pods = append(pods, r.pod(fmt.Sprintf("10.0.0.%d", i+1), func(c *rigConfig) { c.Secrets = []string{older} }).start())
		}
		r.within(time.Second, "links", func() bool { return meshed(pods...) })
		time.Sleep(discovery.SettledAfter)
		sent := 0
		talk := func() {
			for i, p := range pods {
				if p.send(pods[(i+1)%3], fmt.Sprintf("message %d", sent)) == drop.None {
					sent++
				} else {
					t.Error("a message was refused")
				}
			}
		}
		step := func(secrets ...string) {
			for _, p := range pods {
				if err := p.transport.keys.Swap(secrets...); err != nil {
					t.Fatal(err)
				}
				// A link of its own accord goes on; a new one must
				// work as well, beside pods that have not been told yet.
				talk()
				time.Sleep(discovery.SettledAfter + time.Second)
				for _, o := range pods {
					if o != p {
						r.net.Reset(p.host, o.host)
					}
				}
				synctest.Wait() // what is sent on a link that is dying may be lost
				talk()
				r.within(time.Second, "links again", func() bool { return meshed(pods...) })
				talk()
				time.Sleep(time.Second)
			}
		}
		step(newer, older)
		step(newer)
		got, dropped := 0, 0
		for _, p := range pods {
			g, d := p.totals()
			got, dropped = got+g, dropped+d
		}
		if got != sent || dropped != 0 {
			t.Errorf("of %d messages %d arrived and %d were dropped", sent, got, dropped)
		}
		// The old secret is of no use any more.
		late := r.pod("10.0.0.4", func(c *rigConfig) { c.Secrets = []string{older} }).start()
		r.throughout(5*time.Second, "no link", func() bool { return late.linked() })
	})
}

// TestDifferencesAreWarnedOfOnce: pods with other settings that go together link,
// and say so.
func TestDifferencesAreWarnedOfOnce(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a := r.pod("10.0.0.1", settings("rels://one:443", "s1", "s2")).start()
		b := r.pod("10.0.0.2", settings("rels://one:443", "s2", "s1")).start()
		c := r.pod("10.0.0.3", settings("rels://two:443", "s2", "s3"), formerly("rels://one:443")).start()
		r.within(time.Second, "links", func() bool { return meshed(a, b, c) })
		for range 3 {
			time.Sleep(discovery.SettledAfter + time.Second)
			r.net.Reset(a.host, c.host)
			r.within(time.Second, "links", func() bool { return meshed(a, b, c) })
		}
		for _, text := range []string{"another instance address", "other peer tokens"} {
			if n := a.log.count(text); n != 1 {
				t.Errorf("%q is logged %d times", text, n)
			}
			if n := c.log.count(text); n != 2 {
				t.Errorf("%q is logged %d times by the odd one", text, n)
			}
		}
		time.Sleep(2 * time.Second) // a PING each
		var f metrics.Figures
		a.transport.Figures(&f)
		if f.Links != 2 || f.InstanceDiffers != 1 || f.TokensDiffer != 1 {
			t.Errorf("figures: %+v", f)
		}
		_, pods := a.transport.Status()
		for _, p := range pods {
			if odd := p.Address == "10.0.0.3:7090"; p.InstanceDiffers != odd || p.TokensDiffer != odd {
				t.Errorf("%+v", p)
			}
			if p.Version != "v0-test" || p.Peers != 7 || p.RoundTripMS <= 0 || len(p.Incarnation) != 16 {
				t.Errorf("%+v", p)
			}
		}
	})
}

// settings gives a pod what it tells peers and takes from them.
func settings(instance string, tokens ...string) func(*rigConfig) {
	return func(c *rigConfig) { c.InstanceURL, c.TokenSecrets = instance, tokens }
}

// formerly gives a pod former instance addresses.
func formerly(instances ...string) func(*rigConfig) {
	return func(c *rigConfig) { c.FormerInstances = instances }
}

// TestPodsOfAnotherRelayDoNotLink: whatever leads two relays to each other's pods,
// for whatever they have in common, they do not link, and both say why; when
// nothing leads there any more, nothing is left of it.
func TestPodsOfAnotherRelayDoNotLink(t *testing.T) {
	unsigned := func(c *rigConfig) { c.Secrets = nil }
	tests := map[string]struct {
		one, other func(*rigConfig)
		both       func(*rigConfig)
		reason     string
	}{
		"another instance address":                    {one: settings("rels://a:443"), other: settings("rels://b:443"), reason: "instance_mismatch"},
		"another instance address, tokens the same":   {one: settings("rels://a:443", "t"), other: settings("rels://b:443", "t"), reason: "instance_mismatch"},
		"another instance address, no cluster secret": {one: settings("rels://a:443", "t"), other: settings("rels://b:443", "t"), both: unsigned, reason: "instance_mismatch"},
		"no token secret in common":                   {one: settings("rels://a:443", "t"), other: settings("rels://a:443", "u", "v"), reason: "tokens_mismatch"},
		"no token secret in common, no address told":  {one: settings("", "t"), other: settings("", "u"), reason: "tokens_mismatch"},
		"one cluster secret of several in common": {one: settings("rels://a:443"), other: func(c *rigConfig) {
			c.InstanceURL, c.Secrets = "rels://b:443", append(c.Secrets, "another secret, as long as the others")
		}, reason: "instance_mismatch"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				if tt.both == nil {
					tt.both = func(*rigConfig) {}
				}
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				a, b := r.pod("10.0.0.1", tt.both, tt.one).start(), r.pod("10.0.0.2", tt.both, tt.one).start()
				other := r.pod("10.0.0.3", tt.both, tt.other).start()
				r.within(time.Second, "the links within a relay", func() bool { return meshed(a, b) })
				r.throughout(time.Minute, "only those", func() bool { return meshed(a, b) && other.linked() })
				for _, p := range []*rigPod{a, b, other} {
					want := map[string]string{"10.0.0.3:7090": tt.reason}
					if p == other {
						want = map[string]string{"10.0.0.1:7090": tt.reason, "10.0.0.2:7090": tt.reason}
					}
					if got := reasons(p); !maps.Equal(got, want) {
						t.Errorf("%s: %v, want %v", p.host, got, want)
					}
					if p.rejects(tt.reason) == 0 {
						t.Errorf("%s does not count it", p.host)
					}
					if n := p.log.count("reason=" + tt.reason); n < 1 || n > 4 {
						t.Errorf("%s logs it %d times", p.host, n)
					}
				}
				// The name is right again, for both.
				r.resolves("10.0.0.1", "10.0.0.2")
				other.stop()
				r.within(2*time.Minute, "no trace of the other relay", func() bool { return len(reasons(a)) == 0 && len(reasons(b)) == 0 })
			})
		})
	}
}

// TestInstanceAddressChanges: the address of a relay is changed by a rollout, and
// by another one that takes the former address out, with a full mesh at each step.
func TestInstanceAddressChanges(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		pods := make([]*rigPod, 3)
		for step, change := range [][]func(*rigConfig){
			{settings("rels://old:443", "t")},
			{settings("rels://new:443", "t"), formerly("rels://old:443")},
			{settings("rels://new:443", "t")},
		} {
			for i := range pods {
				if pods[i] != nil {
					pods[i].stop()
				}
				pods[i] = r.pod(fmt.Sprintf("10.0.0.%d", i+1), change...).start()
				if step > 0 || i == len(pods)-1 {
					r.within(2*time.Second, "a full mesh", func() bool { return meshed(pods...) })
					time.Sleep(discovery.SettledAfter)
				}
			}
		}
	})
}

// TestUnnamedPodOfAnotherRelayGoes: a link to a pod with another instance address
// lasts no longer than the name leads to it, and long enough for a pod that stops.
func TestUnnamedPodOfAnotherRelayGoes(t *testing.T) {
	for name, broken := range map[string]bool{"a list": false, "a name of which one family fails": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, pace, func(t *testing.T, r *rig) {
				found := func(*rigConfig) {}
				if broken {
					found = func(c *rigConfig) {
						lookedUp(t, c, "relay-pods", nil, func(ctx context.Context, network, name string) (ips []netip.Addr, err error) {
							list, err := r.Resolve(ctx)
							if network != "ip4" {
								return nil, &net.DNSError{Err: "server misbehaving", Name: name, IsTemporary: true}
							}
							for _, text := range list {
								ips = append(ips, netip.MustParseAddrPort(text).Addr())
							}
							return ips, err
						})
					}
				}
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				former := formerly("rels://a:443", "rels://b:443")
				a := r.pod("10.0.0.1", found, settings("rels://a:443"), former).start()
				b := r.pod("10.0.0.2", found, settings("rels://a:443"), former).start()
				other := r.pod("10.0.0.3", found, settings("rels://b:443"), former).start()
				r.within(time.Second, "links", func() bool { return meshed(a, b, other) })
				r.resolves("10.0.0.1", "10.0.0.2")
				r.throughout(110*time.Second, "the links, as long as a pod may take to stop", func() bool { return meshed(a, b, other) })
				r.within(time.Minute, "no link", func() bool { return meshed(a, b) && other.linked() })
				ups := a.count("up")
				r.throughout(5*time.Minute, "no link again", func() bool { return meshed(a, b) && other.linked() && a.count("up") == ups })
				r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
				r.within(time.Minute, "links", func() bool { return meshed(a, b, other) })
				// One with the same address may be unnamed for as long as it likes.
				r.resolves("10.0.0.1", "10.0.0.3")
				r.throughout(5*time.Minute, "the link to a pod of this relay", func() bool { return a.linked(b, other) })
			})
		})
	}
}

// TestTokenSecretsChange: secrets of peer tokens are exchanged while the pods run,
// and whether they are the same is known of the links that there are.
func TestTokenSecretsChange(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2")
		tokens := func(c *rigConfig) { c.TokenSecrets = []string{"old"} }
		a, b := r.pod("10.0.0.1", tokens).start(), r.pod("10.0.0.2", tokens).start()
		differ := func(p *rigPod) int {
			var f metrics.Figures
			p.transport.Figures(&f)
			return f.TokensDiffer
		}
		r.within(time.Second, "links", func() bool { return meshed(a, b) })
		time.Sleep(discovery.SettledAfter)
		ups := a.count("up")
		if differ(a) != 0 || differ(b) != 0 {
			t.Fatal("the same secrets differ")
		}
		change := func(p *rigPod, secrets ...string) {
			p.transport.SetTokenSecrets(secrets)
			time.Sleep(2 * pace)
			synctest.Wait()
		}
		change(a, "new", "old")
		if differ(a) != 1 || differ(b) != 1 {
			t.Errorf("one pod has other secrets: %d and %d differ", differ(a), differ(b))
		}
		change(b, "old", "new")
		if differ(a) != 0 || differ(b) != 0 {
			t.Errorf("both have the new ones: %d and %d differ", differ(a), differ(b))
		}
		if a.count("up") != ups {
			t.Error("a link was disturbed")
		}
		// A link that is made while they change, too.
		a.transport.SetTokenSecrets([]string{"new"})
		r.net.Reset(a.host, b.host)
		for range 300 {
			a.transport.SetTokenSecrets([]string{"another", "old"})
			a.transport.SetTokenSecrets([]string{"old", "new"})
			time.Sleep(pace / 3)
		}
		r.within(2*time.Second, "links", func() bool { return meshed(a, b) })
		time.Sleep(time.Second)
		if differ(a) != 0 || differ(b) != 0 {
			t.Errorf("both have the same again: %d and %d differ", differ(a), differ(b))
		}
	})
}

// TestComplaints: what one pod cannot reach the others know from it.
func TestComplaints(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1", "10.0.0.2", "10.0.0.3")
		a, b, c := r.pod("10.0.0.1"), r.pod("10.0.0.2"), r.pod("10.0.0.3")
		r.net.Partition([]string{a.host}, []string{c.host})
		for _, p := range []*rigPod{a, b, c} {
			p.start()
		}
		r.within(15*time.Second, "complaints of both", func() bool {
			said := map[string][]status.Complaint{}
			_, pods := b.transport.Status()
			for _, p := range pods {
				said[p.Address] = p.Complaints
			}
			return len(said["10.0.0.1:7090"]) == 1 && len(said["10.0.0.3:7090"]) == 1 &&
				said["10.0.0.1:7090"][0] == status.Complaint{Address: "10.0.0.3:7090", Reason: "timeout"}
		})
		if n := a.log.count("pod cannot be reached"); n != 1 {
			t.Errorf("it is logged %d times", n)
		}
		// Whoever links later hears it as well.
		d := r.pod("10.0.0.4").start()
		r.within(time.Second, "a complaint told to a new pod", func() bool {
			d.transport.mu.Lock()
			defer d.transport.mu.Unlock()
			p := d.transport.pods[a.id()]
			return p != nil && len(p.complains) == 1
		})
		r.net.Heal(memAny, memAny)
		r.within(15*time.Second, "nothing to complain of", func() bool {
			_, pods := b.transport.Status()
			for _, p := range pods {
				if len(p.Complaints) > 0 {
					return false
				}
			}
			return len(pods) >= 2
		})
	})
}

func TestListenAtGivenAddress(t *testing.T) {
	inBubble(t, pace, func(t *testing.T, r *rig) {
		r.resolves("10.0.0.1:8000")
		a := r.pod("10.0.0.1", func(c *rigConfig) { c.ListenAddress = "10.0.0.1:8000" }).start()
		if got := a.addr(); got != netip.MustParseAddrPort("10.0.0.1:8000") {
			t.Errorf("it announces %v", got)
		}
		taken := r.pod("10.0.0.1", func(c *rigConfig) { c.ListenAddress = "10.0.0.1:8000" })
		if err := taken.transport.Listen(); err == nil {
			t.Error("a port that is in use was opened")
		}
		taken.transport.Stop()
	})
}

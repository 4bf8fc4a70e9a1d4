package status

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/crosspod/crosspod/cluster/internal/handshake"

	"github.com/crosspod/crosspod/cluster/internal/nolink"
)

// Finding is something about a cluster that its operator may want to know.
type Finding struct {
	Note    bool   `json:"note,omitempty"` // it may be as it should be; otherwise it is a problem
	Pod     string `json:"pod,omitempty"`  // address of the other pod it is about; "" for none in particular
	Problem string `json:"problem"`
	Advice  string `json:"advice"` // what to do
}

// maxClockOffsetMS is how far the clocks of two pods may be apart before it is
// worth a word: clocks that are kept by NTP are far closer.
const maxClockOffsetMS = 2000

// Diagnose returns what is wrong as far as one pod can tell, what stops most
// first, and nothing when all is well. It judges by s alone.
func (s Status) Diagnose() []Finding {
	d := &diagnosis{Status: s}
	d.discovery()
	d.leadBack()
	d.camps()
	d.secrets()
	d.addresses()
	d.links()
	d.complaints()
	d.rotation()
	d.configuration()
	d.clocks()
	d.directory()
	d.spread()
	d.versions()
	return slices.Concat(d.problems, d.notes)
}

// diagnosis collects findings, one method for each kind.
type diagnosis struct {
	Status
	problems, notes []Finding
}

func (d *diagnosis) problem(pod, problem, advice string) {
	d.problems = append(d.problems, Finding{Pod: pod, Problem: problem, Advice: advice})
}

func (d *diagnosis) note(pod, problem, advice string) {
	d.notes = append(d.notes, Finding{Note: true, Pod: pod, Problem: problem, Advice: advice})
}

// discovery: are there other pods at all?
func (d *diagnosis) discovery() {
	how := "check the name, that it has the relay's pods behind it (in Kubernetes a Service with clusterIP: None whose selector fits), and that this pod may ask the name server: UDP and TCP port 53"
	f := d.Discovery
	if f.Watched {
		how = "check that the service account of this pod may list and watch endpointslices.discovery.k8s.io in that namespace, and that a NetworkPolicy lets this pod reach the API server"
	}
	switch {
	case f.Partly && f.Watched:
		d.note("", fmt.Sprintf("the pods are found by their name and not through the API of Kubernetes: %s; a new pod may be found later", f.Error), how)
	case f.Partly:
		d.note("", fmt.Sprintf("%s was answered only in part: %s; for the rest the last answer is used", f.Name, f.Error),
			"nothing, if the pods have no addresses of that kind; else check the name server")
	case f.Error != "" && f.Answered.IsZero():
		d.problem("", fmt.Sprintf("the pods have never been found: %s: %s", f.Name, f.Error), how)
	case f.Error != "":
		d.problem("", fmt.Sprintf("the pods can no longer be found: %s: %s; the last answer is still used, and pods that started since then are missing", f.Name, f.Error), how)
	case f.Answered.IsZero():
		d.note("", fmt.Sprintf("%s has not been answered yet", f.Name), "look again in a few seconds")
	case len(d.Pods) == 0:
		d.problem("", fmt.Sprintf("%s leads to no other pod: this pod is alone", f.Name),
			"if there are others, check that the name, the Service or the list has them all; the headless Service needs publishNotReadyAddresses: true, since pods are ready when they are linked")
	}
	var unlisted []string
	for _, p := range d.Pods {
		if p.Unlisted {
			unlisted = append(unlisted, p.Address)
		}
	}
	if len(unlisted) > 0 {
		d.note("", fmt.Sprintf("%s does not list %s; there is a link anyway, because that side found this pod or another pod reported it", f.Name, strings.Join(unlisted, ", ")),
			"nothing, if such a pod is stopping or has just started: a name server may give an old answer for half a minute; if this stays, check that the name or the list has every pod")
	}
}

// leadBack: which addresses lead to this pod, through something between?
func (d *diagnosis) leadBack() {
	for _, address := range d.Discovery.LeadBack {
		d.problem(address, fmt.Sprintf("%s is listed as the address of a pod, but connections to it come back to this pod (%s)", address, d.Self.Address),
			"check the name or the list, and what listens at that address: no sidecar, proxy or load balancer may be in front of the cluster port, and each address must lead to one pod")
	}
	for _, c := range d.Discovery.Elsewhere {
		d.note(c.Address, fmt.Sprintf("%s is a second address of a linked pod, and cannot be reached%s", c.Address, because(c.Reason)),
			"nothing: one link is enough; if the address is of the other family (IPv4, IPv6), check that the pods can reach each other over that family")
	}
}

// The reasons for which one pod refuses another, as far as they are about
// secrets and settings.
const (
	reasonOtherSecret   = string(handshake.HMACMismatch)
	reasonOtherHasNone  = string(handshake.UnsignedButRequired)
	reasonOwnHasNone    = string(handshake.SignedButUnsupported)
	reasonOtherInstance = string(handshake.OtherInstance)
	reasonOtherTokens   = string(handshake.OtherTokens)
)

// camps: which pods have nothing in common of what all must share? A pod that
// has it with no other is the odd one itself.
func (d *diagnosis) camps() {
	for _, c := range []struct{ reason, what, give, advice string }{
		{reasonOtherSecret, "cluster secret", "the cluster secret",
			"; to change it, give every pod [new, old], then [new], one pod after another (--cluster-auth-secret-file)"},
		{reasonOtherInstance, "instance address (what peers are told)", "the --exposed-address",
			", byte for byte; a pod of another relay must be taken out of the name or the list; to change the address of a relay, tell the new pods of the former one (--cluster-exposed-address-previous)"},
		{reasonOtherTokens, "secret of peer tokens", "the --auth-secret or --auth-secret-file",
			"; to change it, give every pod the new one beside the old one first; a pod of another relay must be taken out of the name or the list"},
	} {
		var here, there []string
		for _, p := range d.Pods {
			switch {
			case p.Reason == c.reason:
				there = append(there, p.Address)
			case p.State == Up:
				here = append(here, p.Address)
			}
		}
		self, others := d.Self.Address, strings.Join(there, ", ")
		switch {
		case len(there) == 1 && len(here) == 0:
			d.problem(there[0], fmt.Sprintf("this pod (%s) and %s have no %s in common", self, others, c.what),
				"give both the same "+strings.TrimPrefix(c.give, "the ")+c.advice)
		case len(there) > 1 && len(here) == 0:
			d.problem("", fmt.Sprintf("this pod (%s) has no %s in common with any other (%s): that of this pod is probably wrong", self, c.what, others),
				"give this pod "+c.give+" of the others"+c.advice)
		case len(there) == len(here)+1:
			d.problem("", fmt.Sprintf("the pods form two groups of equal size with no %s in common: this pod (%s) with %s, and %s", c.what, self, strings.Join(here, ", "), others),
				"give all of them the same "+strings.TrimPrefix(c.give, "the ")+c.advice)
		case len(there) > len(here)+1:
			d.problem("", fmt.Sprintf("the pods form two groups with no %s in common: this pod (%s) with %s, and the larger group %s: the smaller group is probably wrong", c.what, self, strings.Join(here, ", "), others),
				"give the smaller group "+c.give+" of the others"+c.advice)
		default:
			for _, address := range there {
				d.problem(address, fmt.Sprintf("%s has no %s in common with this pod (%s); other pods have", address, c.what, self),
					"give "+address+" "+c.give+" of the others"+c.advice)
			}
		}
	}
}

// secrets: which side has none?
func (d *diagnosis) secrets() {
	var theirs, own []string
	for _, p := range d.Pods {
		switch p.Reason {
		case reasonOtherHasNone:
			theirs = append(theirs, p.Address)
		case reasonOwnHasNone:
			own = append(own, p.Address)
		}
	}
	for _, address := range theirs {
		d.problem(address, fmt.Sprintf("%s has no cluster secret, but this pod (%s) has one", address, d.Self.Address),
			"give "+address+" --cluster-auth-secret or --cluster-auth-secret-file; a pod with a secret links only to pods with one")
	}
	if len(own) > 0 {
		d.problem("", fmt.Sprintf("this pod (%s) has no cluster secret, but %s %s one", d.Self.Address, strings.Join(own, ", "), have(own)),
			"give this pod --cluster-auth-secret or --cluster-auth-secret-file")
	}
	if !d.Signed && len(own) == 0 && len(d.Pods) > 0 {
		d.problem("", "links are not authenticated: anyone who reaches the cluster port can read and send messages as a pod",
			"give all pods the same --cluster-auth-secret (relay token --new-secret makes one), or the file of --cluster-auth-secret-file")
	}
}

// have is the verb for some pods.
func have(pods []string) string {
	if len(pods) == 1 {
		return "has"
	}
	return "have"
}

// addresses: which pod announces one that is taken?
func (d *diagnosis) addresses() {
	const own = "give %s a --pod-ip of its own, where the others reach it; in Kubernetes it is status.podIPs, and pods on the host's network need one cluster port each"
	var by []string
	for _, p := range d.Pods {
		switch {
		case p.Reason == nolink.Taken:
			by = append(by, p.Address)
		case p.Reason != nolink.Address:
		case p.Announced == "": // so an older relay says it
			d.problem(p.Address, "what answers at "+p.Address+" announces an address that another running pod has"+because(p.Error), fmt.Sprintf(own, "it"))
		case p.Announced == d.Self.Address:
			d.problem(p.Address, fmt.Sprintf("what answers at %s announces this pod's own address, %s", p.Address, p.Announced), fmt.Sprintf(own, "one of the two"))
		default:
			d.problem(p.Address, fmt.Sprintf("what answers at %s announces %s, which another running pod has too", p.Address, p.Announced), fmt.Sprintf(own, "it"))
		}
	}
	if len(by) > 0 {
		d.problem("", fmt.Sprintf("this pod announces %s, which another running pod has too: %s %s refused it", d.Self.Address, strings.Join(by, ", "), have(by)),
			fmt.Sprintf(own, "this pod"))
	}
}

// saidAlready reports whether a reason is one that camps, secrets, addresses or
// clocks says.
func saidAlready(reason string) bool {
	return slices.Contains([]string{reasonOtherSecret, reasonOtherInstance, reasonOtherTokens, reasonOtherHasNone, reasonOwnHasNone, nolink.Address, nolink.Taken, nolink.Ahead, nolink.OwnAhead}, reason)
}

// links: which pods are not linked, and why?
func (d *diagnosis) links() {
	for _, p := range d.Pods {
		if saidAlready(p.Reason) {
			continue
		}
		switch p.State {
		case Suspect:
			d.note(p.Address, "the link to "+p.Address+" was lost"+because(p.Error),
				"nothing, if the pod is restarting: this pod tries to link again, and after a short while it counts the other as gone")
		case Dialing:
			d.note(p.Address, p.Address+" has not answered yet", "look again in a few seconds")
		case Gone:
			d.note(p.Address, p.Address+" has stopped", "nothing; this note ends when the address leaves the name or the list, or when the pod starts again")
		case Up, Self: // as it should be
		default:
			problem, advice := whyApart(p)
			d.problem(p.Address, problem, advice)
		}
	}
}

// whyApart says why there is no link to a pod and what to do.
func whyApart(p Pod) (problem, advice string) {
	const port = "check that a relay runs there and that its --cluster-port is the one that is dialled"
	const wall = "check the network between the pods: a NetworkPolicy or a firewall must let each pod reach the other's cluster port"
	problem = "no link to " + p.Address + because(p.Error)
	switch {
	case p.Reason == "self" || p.Reason == "reflected":
		return p.Address + " leads back to this pod" + because(p.Error),
			"check that the other pods reach this very pod at its --pod-ip, and that no load balancer is in front of the cluster port"
	case p.Reason == "version":
		return p.Address + " has no version of the link protocol in common with this pod" + because(p.Error),
			"run releases of the relay that follow each other: a rollout must not skip one"
	case p.Reason == "tls" || p.Reason == "first_frame_not_hello" || p.Reason == "malformed":
		return p.Address + " does not answer like a pod of this relay" + because(p.Error),
			"check that the address and --cluster-port lead to a pod of this relay, and that there is no proxy in between"
	case p.Reason == "limit":
		return problem, "that pod accepts no more links: check whether something else connects to its cluster port"
	case p.Reason == "connection_refused":
		return problem, port
	case slices.Contains([]string{"timeout", "no_route", "ping_timeout", "stalled"}, p.Reason):
		return problem, wall + "; or the pod hangs"
	}
	return problem, port + "; " + wall
}

func because(err string) string {
	if err == "" {
		return ""
	}
	return ": " + err
}

// complaints: which pairs of other pods are apart, and who has found somebody
// that this pod has not?
func (d *diagnosis) complaints() {
	known := map[string]State{d.Self.Address: Self}
	for _, address := range d.Self.Addresses {
		known[address] = Self
	}
	for _, p := range d.Pods {
		known[p.Address] = p.State
	}
	said := map[[2]string]bool{}
	for _, p := range d.Pods {
		for _, c := range p.Complaints {
			pair := [2]string{min(p.Address, c.Address), max(p.Address, c.Address)}
			if said[pair] {
				continue
			}
			said[pair] = true
			why := because(c.Reason)
			switch state, ok := known[c.Address]; {
			case !ok:
				d.problem(c.Address, fmt.Sprintf("%s has found %s but cannot link to it%s; this pod has not found it", p.Address, c.Address, why),
					"check that all pods are given the same name or list, and ask that pod's doctor")
			case state == Self && p.State == Up && c.Address != d.Self.Address:
				d.note(p.Address, fmt.Sprintf("%s cannot link to this pod at %s%s, but is linked at another address", p.Address, c.Address, why),
					"nothing: one link is enough; if that address should be used, check the network from there to here")
			case state == Self:
				d.problem(p.Address, fmt.Sprintf("%s cannot link to this pod (%s)%s", p.Address, c.Address, why),
					"check that --pod-ip and --cluster-port of this pod are where the others reach it, and the network from there to here")
			case state == Up:
				d.problem(p.Address, fmt.Sprintf("%s and %s cannot link to each other%s; this pod is linked to both", p.Address, c.Address, why),
					"check the network between these two, and their secrets; until then messages between their peers are dropped, with the reason no_link")
			}
			// Else this pod has no link to it either, and has said so.
		}
	}
	const seen = "check that all pods are given the same name or list and that it leads to every pod: in Kubernetes a headless Service (clusterIP: None), since an ordinary one leads to one pod at a time; and check the network between the two"
	for _, p := range d.Pods {
		for _, address := range p.Apart {
			if pair := [2]string{min(p.Address, address), max(p.Address, address)}; !said[pair] {
				said[pair] = true
				d.problem(p.Address, fmt.Sprintf("%s and %s are apart: they have no link to each other, and this pod is linked to both", p.Address, address), seen)
			}
		}
	}
	for _, address := range d.Self.Apart {
		if _, ok := known[address]; !ok {
			d.problem(address, fmt.Sprintf("this pod (%s) and %s are apart: they have no link to each other, and other pods are linked to both", d.Self.Address, address), seen)
		}
	}
}

// rotation: may a secret go?
func (d *diagnosis) rotation() {
	with := map[string][]string{} // by secret, who has it
	all, first := []string{}, map[string]bool{}
	several := false
	for _, p := range append([]Pod{d.Self}, d.Pods...) {
		if len(p.Secrets) == 0 || p.State != Up && p.State != Self {
			continue
		}
		all = append(all, p.Address)
		first[p.Secrets[0]] = true
		several = several || len(p.Secrets) > 1
		for _, s := range p.Secrets {
			with[s] = append(with[s], p.Address)
		}
	}
	if !several && len(with) < 2 || len(all) == 0 {
		return
	}
	mine := d.Self.Secrets[0]
	var without, old []string
	for _, address := range all {
		if !slices.Contains(with[mine], address) {
			without = append(without, address)
		}
	}
	for s := range with {
		if s != mine {
			old = append(old, s)
		}
	}
	slices.Sort(old)
	switch {
	case len(without) > 0:
		d.note("", fmt.Sprintf("the cluster secret %s, which this pod lists first, is not yet on %s", mine, strings.Join(without, ", ")),
			"leave the other secrets where they are until every pod has it")
	case len(first) > 1:
		d.note("", "all pods have the cluster secret "+mine+", but some list another one first", "put the new secret first on every pod; leave the old one until then")
	default:
		d.note("", fmt.Sprintf("every linked pod lists the cluster secret %s first: %s can be removed", mine, strings.Join(old, ", ")),
			"if no pod is missing above, remove it from the file or variable of every pod, one after another")
	}
}

// configuration: do linked pods send peers to the same place, and take the same
// tokens? One that differs from all others is the odd one itself, as in camps.
func (d *diagnosis) configuration() {
	var linked, instance, tokens []string
	for _, p := range d.Pods {
		if p.State != Up {
			continue
		}
		linked = append(linked, p.Address)
		if p.InstanceDiffers {
			instance = append(instance, p.Address)
		}
		if p.TokensDiffer {
			tokens = append(tokens, p.Address)
		}
	}
	if len(instance) > 0 {
		d.note("", "peers get another address of the relay than from this pod, a former one or its successor, from "+strings.Join(instance, ", "),
			"finish the rollout to the new --exposed-address, then remove --cluster-exposed-address-previous")
	}
	const advice = "give every pod the same --auth-secret or --auth-secret-file; while secrets are being changed this is normal and passes; a blank or line end at the end of a variable is part of the secret: the pod logs a warning when it starts"
	if len(tokens) > 1 && len(tokens) == len(linked) {
		d.problem("", fmt.Sprintf("every pod that this pod (%s) is linked to accepts tokens of other secrets: --auth-secret or --auth-secret-file of this pod is probably wrong", d.Self.Address), advice)
		return
	}
	for _, address := range tokens {
		d.problem(address, address+" accepts tokens of other secrets than this pod", advice)
	}
}

// clocks: one that is far ahead would decide who owns what, so its pod is refused;
// otherwise they only take part in how long tokens last.
func (d *diagnosis) clocks() {
	const mend = "set the clocks right (NTP), then restart the pods whose cluster clock is ahead, all of them at the same time: it never goes back while one runs"
	var ahead, by []string
	for _, p := range d.Pods {
		switch p.Reason {
		case nolink.Ahead:
			ahead = append(ahead, p.Address)
		case nolink.OwnAhead:
			by = append(by, p.Address)
		}
	}
	if len(ahead) > 1 && len(ahead) == len(d.Pods) {
		d.problem("", fmt.Sprintf("the cluster clocks of all other pods are more than a day ahead of this pod's wall clock (%s), so it refuses them: its clock is probably behind", d.Self.Address),
			"set this machine's clock right (NTP): the pods then link by themselves")
		ahead = nil
	}
	for _, address := range ahead {
		d.problem(address, fmt.Sprintf("the cluster clock of %s is more than a day ahead of this pod's wall clock (%s), so this pod refuses it", address, d.Self.Address), mend)
	}
	if len(by) > 0 {
		d.problem("", fmt.Sprintf("the cluster clock of this pod (%s) is more than a day ahead of the wall clock of %s, so they refuse this pod", d.Self.Address, strings.Join(by, ", ")), mend)
	}
	for _, p := range d.Pods {
		if math.Abs(p.ClockOffsetMS) <= maxClockOffsetMS {
			continue
		}
		by, way := math.Abs(p.ClockOffsetMS)/1000, "ahead of"
		if p.ClockOffsetMS < 0 {
			way = "behind"
		}
		d.problem(p.Address, fmt.Sprintf("the clock of %s was %.1f s %s this pod's when they linked", p.Address, by, way),
			"check that both machines keep their time by NTP; the relay itself uses the latest clock of all pods, but each pod checks the end of tokens by its own")
	}
}

// directory: do all pods have the same view of who is there?
func (d *diagnosis) directory() {
	if d.Directory.Settled {
		return
	}
	for _, p := range d.Pods {
		if p.State != Up && p.State != Gone {
			d.note("", "the pods do not all see the same pods yet, so some lookups ask all of them", "solve the problems above, then this passes by itself")
			return
		}
	}
	d.note("", "the pods do not all see the same pods yet, so some lookups ask all of them",
		"nothing, for a few seconds after a pod has come or gone; if it stays, ask the doctor of the other pods which of them are apart")
}

// spread: do all pods have about as many peers?
func (d *diagnosis) spread() {
	if !d.Spread.Uneven {
		return
	}
	least, most := d.Self, d.Self
	for _, p := range d.Pods {
		if p.State == Up && p.Peers < least.Peers {
			least = p
		}
		if p.State == Up && p.Peers > most.Peers {
			most = p
		}
	}
	advice := "nothing, if most clients cannot move to another pod: they are spread when they connect again, or by a rollout, which spreads all of them"
	if most.Movable > least.Peers {
		advice = "check that the load balancer leads new connections to every ready pod, at random or to the one with the fewest, and not each client to one pod (sessionAffinity: None)"
	}
	d.note("", fmt.Sprintf("the peers are spread unevenly, and have been for ten minutes: %s has %d, of which %d can move, and %s has %d", most.Address, most.Peers, most.Movable, least.Address, least.Peers), advice)
}

// versions: one rollout at a time.
func (d *diagnosis) versions() {
	at := map[string][]string{}
	for _, p := range append([]Pod{d.Self}, d.Pods...) {
		if p.Version != "" {
			at[p.Version] = append(at[p.Version], p.Address)
		}
	}
	if len(at) < 2 {
		return
	}
	var all []string
	for version, pods := range at {
		all = append(all, version+" at "+strings.Join(pods, ", "))
	}
	slices.Sort(all)
	d.note("", "the pods run different versions: "+strings.Join(all, "; "), "finish the rollout, one version to the next at a time")
}

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/crosspod/crosspod/admin"
	"github.com/crosspod/crosspod/auth"
	"github.com/crosspod/crosspod/cluster"
	"github.com/crosspod/crosspod/internal/setting"
)

const (
	// clusterTimeout bounds the question to a pod.
	clusterTimeout = 5 * time.Second
	// maxClusterStatus bounds its answer; a pod is well below 1 KiB.
	maxClusterStatus = 16 << 20
)

// clusterOptions are the options of `relay cluster`.
type clusterOptions struct {
	address   string
	tokenFile string
	json      bool
}

func (p *program) clusterCommand() *command {
	return &command{
		name: "cluster", short: "look at the pods of a relay, through one of them",
		examples: []string{"relay cluster status", "kubectl exec relay-0 -- relay cluster doctor"},
		commands: []*command{
			p.clusterSubcommand("status", "show the pods as one of them sees them; exits with 0 when that pod is ready, has found all pods and is linked to all",
				"Asks the operations listener of a pod, by default that of this machine or container.", showStatus),
			p.clusterSubcommand("doctor", "say what is wrong with the pods and what to do about it; exits with 0 when there is no problem",
				"Judges by what one pod knows: its own links, and what the other pods report of theirs.", showFindings),
			p.exchangeCommand(),
		},
	}
}

// clusterSubcommand returns a command that shows what a pod answers.
func (p *program) clusterSubcommand(name, short, about string, show func(w io.Writer, body []byte, asJSON bool) error) *command {
	var o clusterOptions
	var s setting.Set
	s.String(&o.address, "ops-address", "127.0.0.1:9091", "`ADDRESS` of the pod's operations listener, or the variable RELAY_OPS_LISTEN_ADDRESS").AlsoEnv("OPS_LISTEN_ADDRESS")
	s.String(&o.tokenFile, "token-file", "", "`FILE` with the bearer token it asks for, or the variable RELAY_OPS_TOKEN_FILE").AlsoEnv("OPS_TOKEN_FILE")
	s.Bool(&o.json, "json", "print JSON")
	return &command{
		name: name, short: short, about: about, options: []*setting.Set{&s},
		examples: []string{
			"relay cluster " + name,
			"relay cluster " + name + " --ops-address 10.0.0.1:9091 --token-file token --json",
		},
		run: func(ctx context.Context, _ []string) error {
			if _, err := s.FromEnv(p.lookupEnv); err != nil {
				return usageError{err, "relay cluster " + name}
			}
			body, err := askCluster(ctx, &o)
			if err != nil {
				return err
			}
			return show(p.stdout, body, o.json)
		},
	}
}

// askCluster returns what the pod answers, which is JSON.
func askCluster(ctx context.Context, o *clusterOptions) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, clusterTimeout)
	defer cancel()
	if scheme, rest, ok := strings.Cut(o.address, "://"); ok {
		right, _, _ := strings.Cut(rest, "/")
		return nil, fmt.Errorf("--ops-address is %q: want it without %s://, such as %s", o.address, scheme, right)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+reachable(o.address)+"/v1/cluster", nil)
	if err != nil {
		return nil, fmt.Errorf("--ops-address is %q: want an address and a port, such as 127.0.0.1:9091", o.address)
	}
	if o.tokenFile != "" {
		tokens, err := auth.ReadSecretFile(o.tokenFile)
		if err != nil {
			return nil, fmt.Errorf("--token-file: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+tokens[0])
	}
	// No proxy: the token is for the pod alone.
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // the rest is said here
		}
		return nil, fmt.Errorf("ask the pod at %s: %w; --ops-address is the pod's --ops-listen-address", o.address, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxClusterStatus))
	if err != nil {
		return nil, fmt.Errorf("ask the pod at %s: %w", o.address, err)
	}
	said := strings.TrimSpace(string(body))
	switch resp.StatusCode {
	case http.StatusOK:
		if json.Valid(body) {
			return body, nil
		}
		return nil, notOperations(o.address)
	case http.StatusUnauthorized:
		return nil, fmt.Errorf("the pod at %s does not accept this bearer token: give the right one with --token-file", o.address)
	case http.StatusBadRequest, http.StatusMethodNotAllowed: // so the port of the peers with TLS answers
		return nil, notOperations(o.address)
	case http.StatusNotFound:
		if said != admin.NoCluster {
			return nil, notOperations(o.address)
		}
		return nil, fmt.Errorf("the pod at %s has no other pods: it was started without --cluster-headless, --cluster-endpoints and --cluster-peers", o.address)
	}
	return nil, fmt.Errorf("the pod at %s answers %s: %s", o.address, resp.Status, said)
}

// notOperations says that an address is that of something else, such as another
// listener of the pod.
func notOperations(address string) error {
	return fmt.Errorf("what listens at %s is not a relay's operations listener: --ops-address is the pod's --ops-listen-address, 127.0.0.1:9091 by default", address)
}

// reachable turns a listen address into one that can be dialled: one without a
// host, or for all addresses, is on this machine too.
func reachable(address string) string {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

// showStatus prints the pods. Its error says that not all of them are linked.
func showStatus(w io.Writer, body []byte, asJSON bool) error {
	var s cluster.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("read the status: %w", err)
	}
	var err error
	if asJSON {
		_, err = w.Write(body)
	} else {
		err = writeStatus(w, &s, time.Now())
	}
	if err != nil {
		return err
	}
	up, others, apart := 0, 0, len(s.Self.Apart)
	for _, pod := range s.Pods {
		apart += len(pod.Apart)
		switch pod.State {
		case cluster.PodUp:
			up++
			others++
		case cluster.PodGone: // as it should be
		default:
			others++
		}
	}
	switch {
	case up < others:
		return fmt.Errorf("linked to %d of %d other pods: relay cluster doctor says why", up, others)
	case apart > 0:
		return fmt.Errorf("pods are apart from each other, %d times: relay cluster doctor says which", apart)
	case s.Discovery.Error != "" && !s.Discovery.Partly:
		return fmt.Errorf("some pods may be missing, %s is not resolved: relay cluster doctor says what to do", s.Discovery.Name)
	case !s.Ready:
		return fmt.Errorf("the pod is not ready: %s", cmp.Or(s.NotReady, "it is starting"))
	}
	return nil
}

// writeStatus writes a table of the pods and what there is to say of the pod
// that reports.
func writeStatus(w io.Writer, s *cluster.Status, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tSTATE\tSINCE\tROUND TRIP\tPEERS\tVERSION\tINCARNATION")
	for _, pod := range append([]cluster.PodStatus{s.Self}, s.Pods...) {
		trip := "-"
		if pod.RoundTripMS > 0 {
			trip = fmt.Sprintf("%.2f ms", pod.RoundTripMS)
		}
		peers := "-"
		if pod.State == cluster.PodSelf || pod.State == cluster.PodUp {
			peers = fmt.Sprint(pod.Peers)
		}
		state := string(pod.State)
		if pod.Draining && (pod.State == cluster.PodUp || pod.State == cluster.PodSelf) {
			state = "draining"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", pod.Address, state, age(pod.Since, now), trip, peers, orDash(pod.Version), orDash(pod.Incarnation))
	}
	if err := t.Flush(); err != nil {
		return err
	}

	var b strings.Builder
	for _, pod := range s.Pods {
		if pod.Error != "" && pod.State != cluster.PodUp && pod.State != cluster.PodGone {
			fmt.Fprintf(&b, "%s: %s\n", pod.Address, pod.Error)
		}
	}
	for _, pod := range append([]cluster.PodStatus{s.Self}, s.Pods...) {
		for _, other := range pod.Apart {
			fmt.Fprintf(&b, "%s and %s are apart\n", pod.Address, other)
		}
	}
	d := s.Discovery
	fmt.Fprintf(&b, "\nfound by   %s: ", d.Name)
	if d.Answered.IsZero() {
		b.WriteString("never answered")
	} else {
		fmt.Fprintf(&b, "%d addresses, %s ago", len(d.Addresses), age(d.Answered, now))
	}
	if d.Error != "" {
		b.WriteString("; " + d.Error)
	}
	fmt.Fprintf(&b, "\nproved     %s\n", yesNo(s.Signed, "by a secret", "NO: links are not authenticated"))
	if len(s.Self.Secrets) > 0 {
		fmt.Fprintf(&b, "secrets    %s\n", strings.Join(s.Self.Secrets, ", "))
	}
	for _, pod := range s.Pods {
		if len(pod.Secrets) > 0 && !slices.Equal(pod.Secrets, s.Self.Secrets) {
			fmt.Fprintf(&b, "           %s at %s\n", strings.Join(pod.Secrets, ", "), pod.Address)
		}
	}
	b.WriteString(spreadOf(s))
	fmt.Fprintf(&b, "directory  %s; %d local names, %d names of interest\n", yesNo(s.Directory.Settled, "settled", "not settled"), s.Directory.Local, s.Directory.Interests)
	fmt.Fprintf(&b, "           as a home: %d claims, %d subscriptions\n", s.Directory.Claims, s.Directory.Subscriptions)
	for _, warning := range s.Warnings {
		b.WriteString("warning    " + warning + "\n")
	}
	_, err := io.WriteString(w, fitted(w, b.String()))
	return err
}

// spreadOf is a line about the peers of all pods.
func spreadOf(s *cluster.Status) string {
	peers, movable, pods := s.Self.Peers, s.Self.Movable, 1
	for _, pod := range s.Pods {
		if pod.State == cluster.PodUp {
			peers, movable, pods = peers+pod.Peers, movable+pod.Movable, pods+1
		}
	}
	line := fmt.Sprintf("peers      %d on %d pods, %d of them can move", peers, pods, movable)
	if s.Spread.Share > 0 {
		line += fmt.Sprintf("; an even share is %d", s.Spread.Share)
	}
	if s.Spread.Moving {
		line += "; some of this pod are asked to move"
	}
	return line + "\n"
}

// showFindings prints what is wrong. Its error says that something is.
func showFindings(w io.Writer, body []byte, asJSON bool) error {
	var s cluster.Status
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("read the status: %w", err)
	}
	found := s.Diagnose()
	problems := 0
	for _, f := range found {
		if !f.Note {
			problems++
		}
	}
	var err error
	if asJSON {
		if found == nil {
			found = []cluster.Finding{}
		}
		out := json.NewEncoder(w)
		out.SetIndent("", "  ")
		err = out.Encode(found)
	} else {
		err = writeFindings(w, found, problems)
	}
	if err == nil && problems > 0 {
		err = fmt.Errorf("problems found: %d", problems)
	}
	return err
}

func writeFindings(w io.Writer, found []cluster.Finding, problems int) error {
	var b strings.Builder
	for _, f := range found {
		kind := "problem"
		if f.Note {
			kind = "note"
		}
		fmt.Fprintf(&b, "%s: %s\n", kind, f.Problem)
		fmt.Fprintf(&b, "    %s\n\n", f.Advice)
	}
	if problems == 0 {
		b.WriteString("no problem found\n")
	}
	_, err := io.WriteString(w, fitted(w, b.String()))
	return err
}

// age returns how long ago t was, in the largest unit that says something.
func age(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(0, now.Sub(t))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func yesNo(yes bool, ifYes, ifNo string) string {
	if yes {
		return ifYes
	}
	return ifNo
}

// Package endpointslices finds the pods behind a Service through the API of
// Kubernetes, from inside a pod: it lists the EndpointSlices of the Service and
// watches them. A pod is in them as soon as it has an address, ready or not, and no
// name server keeps an older answer.
//
// The pod's service account needs the verbs list and watch for endpointslices in the
// namespace of the Service, and no more. The protocol is a list and a stream of JSON
// over HTTP, so no library is used; see ADR-0038.
package endpointslices

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
)

const (
	// serviceAccount is where a pod has its token and the certificate of the API
	// server's CA.
	serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

	// answerTimeout bounds each step until the API server answers.
	answerTimeout = 5 * time.Second
	// pingAfter is how long a connection may be silent before it is pinged, so that
	// a watch does not wait for a server that lost its power.
	pingAfter = 10 * time.Second
	// shortestWatch and twice that are the bounds of how long one watch lasts: the
	// next one begins with a fresh list, token and CA.
	shortestWatch = 5 * time.Minute

	soonest = 200 * time.Millisecond // first wait after a watch has ended or failed
	longest = 10 * time.Second       // of these waits

	// firstAnswer is how long Resolve waits for the first list.
	firstAnswer = 2 * time.Second

	// maxBody bounds a list and each event of a watch, in bytes. A slice of 100
	// endpoints has some 60 kB.
	maxBody = 32 << 20
)

// Config says whose endpoints are wanted.
type Config struct {
	Namespace, Service string
	// Port is dialed at each address.
	Port int
	// Fallback is asked while the API does not answer; nil: the last answer stays.
	Fallback func(context.Context) ([]string, error)

	// Server is the API server, host:port; "": what the environment of a pod says.
	Server string
	// Folder has the files token and ca.crt, which are read for each list; "": where
	// a pod has them.
	Folder string
	// Dial is the network; nil: TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Resolver knows the addresses of the endpoints, as a cluster.Watcher.
type Resolver struct {
	Config
	answered chan struct{} // closed when the API has answered or failed once

	mu        sync.Mutex // guards what follows
	addresses []string
	err       error // why addresses are not what the API has now
}

// New returns a Resolver that knows nothing until Watch runs. It fails outside of
// Kubernetes.
func New(c Config) (*Resolver, error) {
	if c.Server == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, errors.New("KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set: this is not a pod of Kubernetes")
		}
		c.Server = net.JoinHostPort(host, port)
	}
	c.Folder = cmp.Or(c.Folder, serviceAccount)
	return &Resolver{Config: c, answered: make(chan struct{}), err: errors.New("not answered yet")}, nil
}

// String names the endpoints for people.
func (r *Resolver) String() string { return "endpoints of " + r.Namespace + "/" + r.Service }

// Resolve returns the addresses as the watch knows them. It waits for a moment for
// the first list. While the API does not answer, the error says why, beside what
// the fallback answers.
func (r *Resolver) Resolve(ctx context.Context) ([]string, error) {
	select {
	case <-r.answered:
	case <-time.After(firstAnswer):
	case <-ctx.Done():
	}
	r.mu.Lock()
	addresses, err := r.addresses, r.err
	r.mu.Unlock()
	if err == nil {
		return addresses, nil
	}
	err = fmt.Errorf("%s: %w", r, err)
	if r.Fallback == nil {
		return nil, err
	}
	addresses, other := r.Fallback(ctx)
	return addresses, errors.Join(err, other)
}

// Watch keeps the addresses up to date until ctx ends, and calls changed when
// Resolve has another answer. It is called once.
func (r *Resolver) Watch(ctx context.Context, changed func()) {
	pace := backoff.NewExponentialBackOff()
	pace.InitialInterval, pace.MaxInterval, pace.Multiplier = soonest, longest, 2
	for ctx.Err() == nil {
		began := time.Now()
		err := r.watch(ctx, func(addresses []string) { r.know(addresses, nil); changed() })
		if err != nil && ctx.Err() == nil {
			r.know(nil, err)
			changed()
		}
		if time.Since(began) > longest {
			pace.Reset()
		}
		select {
		case <-time.After(pace.NextBackOff()):
		case <-ctx.Done():
		}
	}
}

func (r *Resolver) know(addresses []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addresses, r.err = addresses, err
	select {
	case <-r.answered:
	default:
		close(r.answered)
	}
}

// meta is what is needed of the metadata of each object.
type meta struct {
	Name            string `json:"name"`
	ResourceVersion string `json:"resourceVersion"`
}

// slice is what is needed of an EndpointSlice, discovery.k8s.io/v1. Its conditions
// are not: a pod that is not ready waits for its links, and one that terminates
// still has peers while it drains.
type slice struct {
	Metadata  meta `json:"metadata"`
	Endpoints []struct {
		Addresses []string `json:"addresses"`
	} `json:"endpoints"`
}

// watch lists the slices and watches them until that ends, and calls know with the
// addresses first and after each change. A watch that was there and has ended, as
// all do, is no error: the next list says whether the API is still there.
func (r *Resolver) watch(ctx context.Context, know func(addresses []string)) error {
	lasts := shortestWatch + rand.N(shortestWatch)
	ctx, cancel := context.WithTimeout(ctx, lasts+2*answerTimeout)
	defer cancel()
	client, token, err := r.connect(ctx)
	if err != nil {
		return err
	}

	var list struct {
		Metadata meta    `json:"metadata"`
		Items    []slice `json:"items"`
	}
	if err := r.list(ctx, client, token, &list); err != nil {
		return fmt.Errorf("list: %w", err)
	}
	events, err := r.get(ctx, client, token, url.Values{
		"watch": {"true"}, "resourceVersion": {list.Metadata.ResourceVersion},
		"timeoutSeconds": {strconv.Itoa(int(lasts.Seconds()))},
	})
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	defer events.Close()

	known := map[string]slice{}
	for _, s := range list.Items {
		known[s.Metadata.Name] = s
	}
	know(r.dialable(known))
	limited := &io.LimitedReader{R: events}
	decoder := json.NewDecoder(limited)
	for {
		var event struct {
			Type   string `json:"type"`
			Object slice  `json:"object"`
		}
		limited.N = maxBody
		if err := decoder.Decode(&event); err != nil {
			return nil // ended: see above
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			known[event.Object.Metadata.Name] = event.Object
		case "DELETED":
			delete(known, event.Object.Metadata.Name)
		default: // ERROR, such as 410 Gone: the server has forgotten that version
			return nil
		}
		know(r.dialable(known))
	}
}

// connect returns a client with the certificates and the token that the pod has now:
// both are replaced while it runs. Its connections end with ctx: CloseIdleConnections
// leaves one open whose last request is just being cancelled, or that is still dialled.
func (r *Resolver) connect(ctx context.Context) (client *http.Client, token string, err error) {
	pem, err := os.ReadFile(filepath.Join(r.Folder, "ca.crt"))
	if err != nil {
		return nil, "", err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, "", fmt.Errorf("%s has no certificate", filepath.Join(r.Folder, "ca.crt"))
	}
	bearer, err := os.ReadFile(filepath.Join(r.Folder, "token"))
	if err != nil {
		return nil, "", err
	}
	dial := r.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: answerTimeout}).DialContext
	}
	return &http.Client{Transport: &http.Transport{
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err == nil {
				context.AfterFunc(ctx, func() { _ = conn.Close() }) // it is given up
			}
			return conn, err
		},
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:   answerTimeout,
		ResponseHeaderTimeout: answerTimeout,
		ForceAttemptHTTP2:     true,
		HTTP2:                 &http.HTTP2Config{SendPingTimeout: pingAfter, PingTimeout: answerTimeout},
	}}, strings.TrimSpace(string(bearer)), nil
}

func (r *Resolver) list(ctx context.Context, client *http.Client, token string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	body, err := r.get(ctx, client, token, url.Values{})
	if err != nil {
		return err
	}
	defer body.Close()
	return json.NewDecoder(io.LimitReader(body, maxBody)).Decode(into)
}

// get asks for the slices of the Service. The caller closes the body.
func (r *Resolver) get(ctx context.Context, client *http.Client, token string, query url.Values) (io.ReadCloser, error) {
	query.Set("labelSelector", "kubernetes.io/service-name="+r.Service)
	u := url.URL{
		Scheme: "https", Host: r.Server, RawQuery: query.Encode(),
		Path: "/apis/discovery.k8s.io/v1/namespaces/" + r.Namespace + "/endpointslices",
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "crosspod-relay")
	resp, err := client.Do(req)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err // without the long address
		}
		return nil, fmt.Errorf("ask the API server %s: %w", r.Server, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var status struct {
		Message string `json:"message"`
	}
	_ = json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&status) // the code says enough without
	return nil, fmt.Errorf("the API server %s answered %s: %s", r.Server, resp.Status, status.Message)
}

// dialable returns the addresses of all endpoints with the port. One Service has
// several slices: for each family, and for each hundred endpoints.
func (r *Resolver) dialable(known map[string]slice) []string {
	all := []string{}
	for _, s := range known {
		for _, e := range s.Endpoints {
			for _, text := range e.Addresses {
				if ip, err := netip.ParseAddr(text); err == nil { // else the name of a host
					all = append(all, netip.AddrPortFrom(ip, uint16(r.Port)).String())
				}
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

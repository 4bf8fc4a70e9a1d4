package cluster

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
)

func TestNewResolver(t *testing.T) {
	asked := errors.New("the one that was given is asked")
	dns := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, asked }}
	r, err := NewResolver(Config{Headless: "pods.relay.test."}, dns)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Resolve(t.Context()); err == nil || !strings.Contains(err.Error(), asked.Error()) || len(got) > 0 {
		t.Errorf("Resolve = %q, %v", got, err)
	}
	if got := r.String(); got != "pods.relay.test." {
		t.Errorf("it is called %q", got)
	}
	r, err = NewResolver(Config{StaticPeers: []string{"10.0.0.1", "[fd00::1]:7091"}, Port: 7000}, dns)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"10.0.0.1:7000", "[fd00::1]:7091"}
	if got, err := r.Resolve(t.Context()); err != nil || !slices.Equal(got, want) {
		t.Errorf("Resolve = %q, %v; want %q", got, err, want)
	}
	if _, err := NewResolver(Config{}, dns); err == nil {
		t.Error("nobody to be found is no error")
	}
}

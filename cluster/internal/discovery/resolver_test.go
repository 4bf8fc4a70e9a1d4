package discovery

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer is a name server on loopback that answers for each family as it is
// told: with addresses, or with one of the words below.
type nameServer struct {
	conn   net.PacketConn
	answer [2]atomic.Pointer[string] // A, AAAA
}

// What a name server may do instead of giving addresses.
const (
	saysNone      = "none"      // the name has no addresses of that family
	saysNoName    = "no name"   // there is no such name
	saysFails     = "SERVFAIL"  // it cannot say
	saysRefuses   = "REFUSED"   // it does not want to say
	saysTruncated = "truncated" // ask by TCP, where nothing listens
	saysNothing   = "nothing"
)

func newNameServer(t *testing.T) *nameServer {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &nameServer{conn: conn}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := s.reply(t, buf[:n]); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
	return s
}

// says sets the answers from now on.
func (s *nameServer) says(a, aaaa string) {
	s.answer[0].Store(&a)
	s.answer[1].Store(&aaaa)
}

// resolver asks s and no other.
func (s *nameServer) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, s.conn.LocalAddr().String())
	}}
}

func (s *nameServer) reply(t *testing.T, query []byte) []byte {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		t.Errorf("a query that is none: %v", err)
		return nil
	}
	q := m.Questions[0]
	says := *s.answer[0].Load()
	if q.Type == dnsmessage.TypeAAAA {
		says = *s.answer[1].Load()
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true},
		Questions: m.Questions,
	}
	switch says {
	case saysNothing:
		return nil
	case saysNone:
	case saysNoName:
		reply.RCode = dnsmessage.RCodeNameError
	case saysFails:
		reply.RCode = dnsmessage.RCodeServerFailure
	case saysRefuses:
		reply.RCode = dnsmessage.RCodeRefused
	case saysTruncated:
		reply.Truncated = true
	default:
		ip := netip.MustParseAddr(says)
		r := dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET}}
		if ip.Is4() {
			r.Body = &dnsmessage.AResource{A: ip.As4()}
		} else {
			r.Body = &dnsmessage.AAAAResource{AAAA: ip.As16()}
		}
		reply.Answers = append(reply.Answers, r)
	}
	packed, err := reply.Pack()
	if err != nil {
		t.Error(err)
	}
	return packed
}

// TestEachFamilyIsAskedByItself: what one family answers is used whatever the
// other does, the last answer of each is kept while it fails, and a name has no
// addresses only if both say so.
func TestEachFamilyIsAskedByItself(t *testing.T) {
	const v4, other4, v6 = "10.0.0.1", "10.0.0.2", "fd00::1"
	const none, fails, absent = "", "fails", "absent" // what becomes of Resolve
	type step struct {
		a, aaaa string
		want    []string
		err     string
	}
	tests := map[string][]step{
		"both":             {{v4, v6, []string{v4, v6}, none}},
		"IPv4 only":        {{v4, saysNone, []string{v4}, none}},
		"IPv6 only":        {{saysNone, v6, []string{v6}, none}},
		"neither":          {{saysNone, saysNone, nil, absent}},
		"no such name":     {{saysNoName, saysNoName, nil, absent}},
		"silence for AAAA": {{v4, saysNothing, []string{v4}, none}},
		"silence for A":    {{saysNothing, v6, []string{v6}, none}},
		"silence for both": {{saysNothing, saysNothing, nil, fails}},
		"silence and none": {{saysNothing, saysNone, nil, fails}, {saysNone, saysNothing, nil, fails}},
		"a last answer is kept": {
			{v4, v6, []string{v4, v6}, none},
			{other4, saysFails, []string{other4, v6}, fails},
			{other4, saysRefuses, []string{other4, v6}, none},
			{saysTruncated, saysNone, []string{other4, v6}, fails},
			{saysNothing, v6, []string{other4, v6}, none},
			{saysNoName, saysNoName, []string{other4, v6}, absent},
			{v4, saysNone, []string{v4}, none},
		},
	}
	for _, says := range []string{saysFails, saysRefuses, saysTruncated} {
		tests[says+" for A, none for AAAA"] = []step{{says, saysNone, nil, fails}}
		tests["none for A, "+says+" for AAAA"] = []step{{saysNone, says, nil, fails}}
	}
	for name, steps := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // some wait
			s := newNameServer(t)
			r, err := Names("pods.relay.test.", nil, 7090, Strictly(s.resolver()))
			if err != nil {
				t.Fatal(err)
			}
			for _, step := range steps {
				s.says(step.a, step.aaaa)
				ctx := t.Context()
				if len(step.want) == 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, time.Second) // for those that say nothing
					defer cancel()
				}
				got, err := r.Resolve(ctx)
				for i := range got {
					got[i] = strings.Trim(strings.TrimSuffix(got[i], ":7090"), "[]")
				}
				if !slices.Equal(got, step.want) {
					t.Errorf("A %s, AAAA %s: %v, want %v", step.a, step.aaaa, got, step.want)
				}
				if (err != nil) != (step.err != none) || notFound(err) != (step.err == absent) {
					t.Errorf("A %s, AAAA %s: error %v, not found %v, want %q", step.a, step.aaaa, err, notFound(err), step.err)
				}
			}
		})
	}
}

package devcluster

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
)

// podsName is the name that resolves to every pod; .test is nobody's (RFC 6761).
const podsName = "pods.relay.test."

// nameServer answers what podsName is, as the name server of Kubernetes does for
// a headless Service: one A record for each pod.
//
// It is built on dnsmessage, which the Go project keeps for its own resolver and
// which this module has already. miekg/dns would bring the server loop too,
// twenty lines, and is no longer developed.
type nameServer struct {
	// Set by startNameServer, never changed.
	conn    *net.UDPConn
	pods    []netip.Addr
	serving sync.WaitGroup
}

// startNameServer serves on any free port of loopback until close.
func startNameServer(pods []netip.Addr) (*nameServer, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	s := &nameServer{conn: conn, pods: pods}
	s.serving.Go(s.serve)
	return s, nil
}

// address returns where it answers.
func (s *nameServer) address() string { return s.conn.LocalAddr().String() }

func (s *nameServer) close() {
	_ = s.conn.Close() // its serve ends
	s.serving.Wait()
}

func (s *nameServer) serve() {
	buf := make([]byte, 512) // RFC 1035, section 2.3.4
	for {
		n, from, err := s.conn.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // what an earlier answer met
		}
		if answer, ok := s.answer(buf[:n]); ok {
			_, _ = s.conn.WriteToUDPAddrPort(answer, from) // who asked asks again
		}
	}
}

// answer returns the answer to a query; no answer is fit for what is none.
func (s *nameServer) answer(query []byte) ([]byte, bool) {
	var p dnsmessage.Parser
	asked, err := p.Start(query)
	if err != nil || asked.Response {
		return nil, false
	}
	question, err := p.Question()
	if err != nil {
		return nil, false
	}
	reply := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: asked.ID, Response: true, Authoritative: true, RecursionDesired: asked.RecursionDesired},
		Questions: []dnsmessage.Question{question},
	}
	switch {
	case question.Name.String() != podsName:
		reply.RCode = dnsmessage.RCodeNameError
	case question.Type == dnsmessage.TypeA:
		for _, pod := range s.pods {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{
				Header: dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET},
				Body:   &dnsmessage.AResource{A: pod.As4()},
			})
		}
	}
	packed, err := reply.Pack()
	return packed, err == nil
}

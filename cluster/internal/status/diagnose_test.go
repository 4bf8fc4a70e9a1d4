package status

import (
	"strings"
	"testing"
	"time"
)

// healthy is what one of three pods sees when all is well.
func healthy() Status {
	answered := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	pod := func(address string, state State) Pod {
		return Pod{Address: address, ID: "00", Incarnation: "00", State: state, Since: answered, RoundTripMS: 0.2, Version: "v1"}
	}
	return Status{
		Self:      pod("10.0.0.1:7090", Self),
		Pods:      []Pod{pod("10.0.0.2:7090", Up), pod("10.0.0.3:7090", Up)},
		Discovery: Discovery{Name: "relay-pods", Addresses: []string{"10.0.0.1:7090", "10.0.0.2:7090", "10.0.0.3:7090"}, Answered: answered},
		Directory: Directory{Settled: true},
		Ready:     true,
		Signed:    true,
	}
}

func TestDiagnose(t *testing.T) {
	apart := func(p *Pod, state State, reason, err string) {
		p.State, p.Reason, p.Error = state, reason, err
	}
	tests := []struct {
		name   string
		change func(*Status)
		// want has a line for each finding, what it must say separated by |. A
		// note begins with "note".
		want []string
	}{
		{"all is well", func(*Status) {}, nil},

		{"peers are uneven", func(s *Status) {
			s.Spread.Uneven, s.Pods[0].Peers, s.Pods[0].Movable, s.Pods[1].Peers = true, 300, 4, 20
			s.Self.Peers = 100
		}, []string{"note|10.0.0.2:7090 has 300, of which 4 can move, and 10.0.0.3:7090 has 20|cannot move"}},
		{"peers come back to the same pod", func(s *Status) {
			s.Spread.Uneven, s.Self.Peers, s.Self.Movable = true, 300, 300
		}, []string{"note|10.0.0.1:7090 has 300, of which 300 can move, and 10.0.0.2:7090 has 0|load balancer|sessionAffinity"}},

		{"the name is not resolved", func(s *Status) {
			s.Pods, s.Discovery.Answered, s.Discovery.Error = nil, time.Time{}, "no such host"
		}, []string{"relay-pods: no such host|port 53"}},
		{"the name is not resolved any more", func(s *Status) {
			s.Discovery.Error = "server misbehaving"
		}, []string{"can no longer be found: relay-pods: server misbehaving|last answer"}},
		{"one family is not answered", func(s *Status) {
			s.Discovery.Error, s.Discovery.Partly = "i/o timeout", true
		}, []string{"note|relay-pods was answered only in part: i/o timeout|check the name server"}},
		{"the API forbids, and there is a name", func(s *Status) {
			s.Discovery.Watched, s.Discovery.Error, s.Discovery.Partly = true, "403 Forbidden", true
		}, []string{"note|found by their name and not through the API of Kubernetes: 403 Forbidden|list and watch endpointslices"}},
		{"the API does not answer", func(s *Status) {
			s.Discovery.Watched, s.Discovery.Error = true, "i/o timeout"
		}, []string{"can no longer be found: relay-pods: i/o timeout|API server"}},
		{"no answer yet", func(s *Status) {
			s.Pods, s.Discovery.Answered = nil, time.Time{}
		}, []string{"note|not been answered"}},
		{"never found", func(s *Status) {
			s.Discovery.Answered, s.Discovery.Addresses, s.Discovery.Error = time.Time{}, nil, "no such host"
		}, []string{"have never been found: relay-pods: no such host"}},
		{"a pod that the name leaves out", func(s *Status) {
			s.Pods[1].Unlisted = true
		}, []string{"note|relay-pods does not list 10.0.0.3:7090; there is a link anyway|has every pod"}},
		{"alone", func(s *Status) {
			s.Pods = nil
		}, []string{"leads to no other pod|publishNotReadyAddresses"}},

		{"one pod has another secret", func(s *Status) {
			apart(&s.Pods[1], Refused, "hmac_mismatch", "no cluster secret in common")
		}, []string{"10.0.0.3:7090 has no cluster secret in common with this pod (10.0.0.1:7090)|give 10.0.0.3:7090 the cluster secret of the others"}},
		{"this pod has another secret", func(s *Status) {
			apart(&s.Pods[0], Refused, "hmac_mismatch", "")
			apart(&s.Pods[1], Refused, "hmac_mismatch", "")
		}, []string{"this pod (10.0.0.1:7090) has no cluster secret in common with any other (10.0.0.2:7090, 10.0.0.3:7090)|give this pod"}},
		{"two pods, two secrets", func(s *Status) {
			s.Pods = s.Pods[:1]
			apart(&s.Pods[0], Refused, "hmac_mismatch", "")
		}, []string{"this pod (10.0.0.1:7090) and 10.0.0.2:7090 have no cluster secret in common|give both"}},
		{"another pod has no secret", func(s *Status) {
			apart(&s.Pods[0], Refused, "unsigned_but_required", "")
		}, []string{"10.0.0.2:7090 has no cluster secret, but this pod|--cluster-auth-secret-file"}},
		{"this pod has no secret", func(s *Status) {
			s.Signed = false
			apart(&s.Pods[0], Refused, "signed_but_unsupported", "")
			apart(&s.Pods[1], Refused, "signed_but_unsupported", "")
		}, []string{"this pod (10.0.0.1:7090) has no cluster secret, but 10.0.0.2:7090, 10.0.0.3:7090 have one"}},
		{"nobody has a secret", func(s *Status) {
			s.Signed = false
		}, []string{"links are not authenticated|--new-secret"}},

		{"nobody listens", func(s *Status) {
			apart(&s.Pods[1], Unreachable, "connection_refused", "dial tcp 10.0.0.3:7090: connect: connection refused")
		}, []string{"no link to 10.0.0.3:7090: dial tcp|a relay runs there"}},
		{"packets are lost", func(s *Status) {
			apart(&s.Pods[1], Unreachable, "timeout", "dial tcp 10.0.0.3:7090: i/o timeout")
		}, []string{"no link to 10.0.0.3:7090|NetworkPolicy"}},
		{"the way there hangs", func(s *Status) {
			apart(&s.Pods[1], Unreachable, "ping_timeout", "no PONG for 3s")
		}, []string{"no link to 10.0.0.3:7090: no PONG|NetworkPolicy|hangs"}},
		{"it stops", func(s *Status) {
			apart(&s.Pods[1], Gone, "stopping", "")
		}, []string{"note|10.0.0.3:7090 has stopped"}},
		{"something else", func(s *Status) {
			apart(&s.Pods[1], Unreachable, "", "")
		}, []string{"no link to 10.0.0.3:7090|a relay runs there|NetworkPolicy"}},
		{"another pod with the address of a third", func(s *Status) {
			apart(&s.Pods[1], Refused, "duplicate_address", "")
			s.Pods[1].Announced = "10.0.0.2:7090"
		}, []string{"what answers at 10.0.0.3:7090 announces 10.0.0.2:7090, which another running pod|give it a --pod-ip"}},
		{"another pod with the address of this one", func(s *Status) {
			apart(&s.Pods[1], Refused, "duplicate_address", "")
			s.Pods[1].Announced = "10.0.0.1:7090"
		}, []string{"what answers at 10.0.0.3:7090 announces this pod's own address, 10.0.0.1:7090|one of the two"}},
		{"another pod with the address of one, said by an older relay", func(s *Status) {
			apart(&s.Pods[1], Refused, "duplicate_address", "why")
		}, []string{"what answers at 10.0.0.3:7090 announces an address that another running pod has: why|--pod-ip"}},
		{"this pod with the address of another", func(s *Status) {
			apart(&s.Pods[0], Refused, "address_taken", "")
			apart(&s.Pods[1], Refused, "address_taken", "")
		}, []string{"this pod announces 10.0.0.1:7090, which another running pod has too: 10.0.0.2:7090, 10.0.0.3:7090 have refused it|give this pod a --pod-ip"}},
		{"an address that is its own", func(s *Status) {
			apart(&s.Pods[1], Refused, "self", "")
		}, []string{"10.0.0.3:7090 leads back to this pod"}},
		{"versions that do not go together", func(s *Status) {
			apart(&s.Pods[1], Refused, "version", "")
		}, []string{"10.0.0.3:7090 has no version of the link protocol in common"}},
		{"not a relay", func(s *Status) {
			apart(&s.Pods[1], Refused, "tls", "")
		}, []string{"10.0.0.3:7090 does not answer like a pod"}},
		{"full", func(s *Status) {
			apart(&s.Pods[1], Refused, "limit", "")
		}, []string{"no link to 10.0.0.3:7090|no more links"}},
		{"lost just now", func(s *Status) {
			apart(&s.Pods[1], Suspect, "", "read: connection reset by peer")
		}, []string{"note|the link to 10.0.0.3:7090 was lost: read"}},
		{"being dialled", func(s *Status) {
			apart(&s.Pods[1], Dialing, "", "")
		}, []string{"note|10.0.0.3:7090 has not answered yet"}},

		{"a pair apart, said by both", func(s *Status) {
			s.Pods[0].Complaints = []Complaint{{"10.0.0.3:7090", "timeout"}}
			s.Pods[1].Complaints = []Complaint{{"10.0.0.2:7090", "timeout"}}
		}, []string{"10.0.0.2:7090 and 10.0.0.3:7090 cannot link to each other: timeout|no_link"}},
		{"somebody cannot reach this pod", func(s *Status) {
			s.Pods[0].Complaints = []Complaint{{"10.0.0.1:7090", "timeout"}}
		}, []string{"10.0.0.2:7090 cannot link to this pod (10.0.0.1:7090): timeout|--pod-ip"}},
		{"somebody has found another pod", func(s *Status) {
			s.Pods[0].Complaints = []Complaint{{"10.0.0.9:7090", "timeout"}}
		}, []string{"10.0.0.2:7090 has found 10.0.0.9:7090|the same name or list"}},
		{"a pod that nobody reaches is said once", func(s *Status) {
			apart(&s.Pods[1], Unreachable, "timeout", "i/o timeout")
			s.Pods[0].Complaints = []Complaint{{"10.0.0.3:7090", "timeout"}}
		}, []string{"no link to 10.0.0.3:7090"}},

		{"two camps of equal size", func(s *Status) {
			s.Pods = append(s.Pods, s.Pods[1])
			s.Pods[2].Address = "10.0.0.4:7090"
			apart(&s.Pods[1], Refused, "hmac_mismatch", "")
			apart(&s.Pods[2], Refused, "hmac_mismatch", "")
		}, []string{"two groups of equal size with no cluster secret in common: this pod (10.0.0.1:7090) with 10.0.0.2:7090, and 10.0.0.3:7090, 10.0.0.4:7090|give all of them the same"}},
		{"the smaller camp", func(s *Status) {
			for _, address := range []string{"10.0.0.4:7090", "10.0.0.5:7090"} {
				s.Pods = append(s.Pods, s.Pods[1])
				s.Pods[len(s.Pods)-1].Address = address
			}
			for i := range s.Pods[1:] {
				apart(&s.Pods[1+i], Refused, "tokens_mismatch", "")
			}
		}, []string{"two groups with no secret of peer tokens in common: this pod (10.0.0.1:7090) with 10.0.0.2:7090, and the larger group 10.0.0.3:7090, 10.0.0.4:7090, 10.0.0.5:7090"}},
		{"a pod of another relay", func(s *Status) {
			apart(&s.Pods[1], Refused, "instance_mismatch", "")
		}, []string{"10.0.0.3:7090 has no instance address|--exposed-address|--cluster-exposed-address-previous"}},
		{"a former instance address", func(s *Status) {
			s.Pods[0].InstanceDiffers, s.Pods[1].InstanceDiffers = true, true
		}, []string{"note|peers get another address of the relay than from this pod, a former one or its successor, from 10.0.0.2:7090, 10.0.0.3:7090|finish the rollout"}},
		{"other tokens", func(s *Status) {
			s.Pods[0].TokensDiffer = true
		}, []string{"10.0.0.2:7090 accepts tokens of other secrets|--auth-secret"}},
		{"tokens of its own", func(s *Status) {
			s.Pods[0].TokensDiffer, s.Pods[1].TokensDiffer = true, true
		}, []string{"accepts tokens of other secrets: --auth-secret or --auth-secret-file of this pod is probably wrong"}},
		{"a clock that is fast", func(s *Status) {
			s.Pods[0].ClockOffsetMS = 3600_000
		}, []string{"10.0.0.2:7090 was 3600.0 s ahead of this pod's|NTP"}},
		{"a clock that is slow", func(s *Status) {
			s.Pods[0].ClockOffsetMS = -2500
		}, []string{"10.0.0.2:7090 was 2.5 s behind this pod's"}},
		{"clocks as they are", func(s *Status) {
			s.Pods[0].ClockOffsetMS = -1999
		}, nil},
		{"views that differ", func(s *Status) {
			s.Directory.Settled = false
		}, []string{"note|do not all see the same pods|if it stays"}},
		{"a rollout", func(s *Status) {
			s.Pods[1].Version = "v2"
		}, []string{"note|v1 at 10.0.0.1:7090, 10.0.0.2:7090; v2 at 10.0.0.3:7090"}},
		{"problems come before notes", func(s *Status) {
			s.Directory.Settled = false
			s.Pods[0].Version = "v2"
			apart(&s.Pods[1], Unreachable, "timeout", "")
		}, []string{"no link to 10.0.0.3:7090", "note|do not all see|solve the problems above", "note|different versions"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := healthy()
			tt.change(&s)
			got := s.Diagnose()
			if len(got) != len(tt.want) {
				t.Fatalf("found %+v, want %q", got, tt.want)
			}
			for i, f := range got {
				text := f.Problem + " " + f.Advice
				parts := strings.Split(tt.want[i], "|")
				if note := parts[0] == "note"; note != f.Note {
					t.Errorf("%+v: note is %v, want %v", f, f.Note, note)
				} else if note {
					parts = parts[1:]
				}
				for _, part := range parts {
					if !strings.Contains(text, part) {
						t.Errorf("found %q, want it to say %q", text, part)
					}
				}
				if f.Advice == "" {
					t.Errorf("%q has no advice", f.Problem)
				}
			}
		})
	}
}

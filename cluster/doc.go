// Package cluster makes one relay of many pods: whoever is connected where,
// every peer reaches every peer and hears of every peer.
//
// [Start] joins this pod to the others. It sees the relay as a [Host]: who is
// connected to this pod, and what they want to know of others. The relay sees it as a
// [Forwarder]: [Forwarder.Send] and [Forwarder.Flush].
//
// # The way of a message
//
//	relay                        this pod                          the other pod
//	Forwarder.Send        ─►  owner remembered? ─► its pod's queue ═link═►  Delivery ─► peer
//	                              no: set aside,                        or, not here:
//	                              directory asked once    ◄════BOUNCE════  sent back
//
// Send waits for nothing. A message makes one hop: what comes from a pod is
// given to a [Delivery], which has no way to another one, or goes back to be
// routed once more. Every queue is bounded and every message that is let go is
// counted once, with its reason, by the pod that lets it go; see [Host].
//
// # The parts
//
//   - discovery (internal/discovery) finds the addresses of pods, by a name or
//     list and by what linked pods tell, and dials those that have no link. It only
//     adds.
//   - the transport (internal/transport) has the links: one for each pod, TLS 1.3,
//     proved with a shared secret from both sides, with one writer at a time,
//     control before directory before messages. The queue of messages belongs to
//     the pod, so a new link goes on where the old one ended.
//   - the node (internal/node) has the directory: which pod has which peer, who
//     asked to be told about whom. One goroutine owns it; links, peers and the
//     Forwarder leave something for it to do and go on.
//   - [Forwarder] and [PeerLocator] share what is remembered of the directory's
//     answers.
//   - internal/metrics counts. [Status] is what this pod sees, and its Diagnose
//     finds what is wrong (internal/status). internal/nolink has the reasons why two
//     pods have no link.
//
// Below internal/ are the parts that are pure: the frames (wire), the proofs
// (handshake), one session (link), which of several connections is used (mesh),
// the directory (directory, checked by simulation in dirtest), what a sender
// remembers (routes).
//
// # Between pods
//
// A pod is an address and a random number of its process: one that restarts is
// another pod. A link that is lost makes its pod suspect; three seconds later, or
// at once when it has said LEAVE or another process answers at its address, it
// is gone, with all that it had. Time is a clock that linked pods share, so that
// of two connections of one peer the later one counts everywhere, and the
// earlier one is closed ([Host.Evict]).
//
// docs/protocol.md has the frames, docs/adr/0014-cross-pod-fabric.md the reasons,
// 0015 the directory, 0016 trust, 0017 what a lookup may cost, 0026 what a pod
// links to, 0027 how it is found and when it is ready.
//
// # Metrics
//
//	relay_cluster_forwards_total{result}         messages handed over: ok, peer_not_found, stream_gone, send_error
//	relay_cluster_arrivals_total{result}         messages from other pods: ok, bounced, dropped, malformed
//	relay_cluster_dropped_total{reason}          messages taken and let go, as [Host.Dropped]
//	relay_cluster_bounces_sent_total             messages sent back
//	relay_cluster_bounces_received_total         messages that came back
//	relay_cluster_lookups_total{outcome}         owner, nobody, unknown
//	relay_cluster_lookup_duration_seconds        histogram, from the question to the answer
//	relay_cluster_evictions_total                connections superseded by one on another pod
//	relay_cluster_directory_entries{kind}        local, claim, subscription, interest
//	relay_cluster_routes{kind}                   remembered: owner, absent
//	relay_cluster_peers_share                     of each pod, if peers were spread evenly
//	relay_cluster_parked_messages, _bytes        that wait for their owner to be known
//	relay_cluster_held_messages, away_peers      of those, for peers that a draining pod has closed; these
//	relay_cluster_held_total                     messages that have waited so
//	relay_cluster_queued_messages, _bytes        that wait for a link
//	relay_cluster_streams                        links in use
//	relay_cluster_link_round_trip_seconds        histogram, PING to PONG
//	relay_cluster_pings_sent_total, _lost_total
//	relay_cluster_hello_rejects_total{reason}    connections refused before they became links
//	relay_cluster_pods, relay_cluster_settled    pods in the view; 1 when all pods see the same
//	relay_cluster_digest_mismatches_total        claims counted differently at both ends: a bug
//	relay_cluster_directory_faults_total         entries of this pod to itself that it refused: a bug
//	relay_cluster_secret{secret}                 cluster secrets of this pod by hash: 1 for the preferred one
//	relay_cluster_instance_mismatch, relay_cluster_tokens_mismatch
//	                                             linked pods with a former instance address or other peer tokens
package cluster

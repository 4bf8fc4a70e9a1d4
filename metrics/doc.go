// Package metrics holds the instruments of the relay: one method for each
// event, one atomic addition for most of them.
//
// An event on the path of a message must cost next to nothing, so counters are
// plain atomic integers, which OpenTelemetry reads only at a
// collection (internal/instrument). Every label value is there, at zero, from the
// first collection on; a histogram appears with its first observation. Labels
// are small closed sets, one Go constant for each value, and never a peer or an
// address.
//
// The names, as the Prometheus exporter of OpenTelemetry writes them with its
// default options:
//
//	relay_transfer_received_bytes_total         transport messages read, bytes
//	relay_transfer_sent_bytes_total             transport messages written to peers, bytes
//	relay_messages_received_total               transport messages read
//	relay_messages_delivered_total              transport messages written to peers
//	relay_messages_dropped_total{reason}        transport messages let go, see internal/drop
//	relay_messages_queued                       transport messages waiting for their peer's socket
//	relay_queued_bytes                          bytes of those
//	relay_queue_delay_seconds                   histogram, wait in a peer's queue
//	relay_peers{transport}                      connected peers
//	relay_peers_active, relay_peers_idle        with and without recent traffic
//	relay_peer_authentication_time_milliseconds histogram, accept to end of handshake
//	relay_peer_store_time_milliseconds          histogram, registration and announcement
//	relay_peer_reconnections_total              connections that replaced one of the same id
//	relay_peer_throttled_seconds_total          time peers over their rate were not read
//	relay_peers_stalled_total                   peers closed because their socket took nothing
//	relay_healthcheck_timeouts_total            peers closed because they did not answer
//	relay_handshakes_total{outcome}             ends of half-open connections, see internal/gate
//	relay_subscriptions_refused_total           peer ids refused by a subscription limit
//	relay_subscription_floods_total             peers closed because their lists were over the rate for too long
//	relay_build_info{version,revision,goversion} always 1
//
// At rest, summed over the pods of a relay, messages received are those
// delivered, dropped and queued: a message has one fate. The names that begin
// relay_transfer_, relay_peers (but for relay_peers_stalled_total) and the two
// histograms in milliseconds are older than this package, and existing
// dashboards chart them.
package metrics

// Package discovery finds the other pods of a cluster and says whom to dial.
//
// A [Resolver] answers with addresses: the host names of [Names], looked up by
// family so that one slow name server delays nothing, or an embedder's own.
// Linked pods tell of more addresses. [Discovery] is one loop over all of them,
// the targets. It compares what is wanted with what is there, and dials each
// address that has no link, soon at first and then more and more rarely. It never
// closes a link: an address that is not found any more is only not dialed any more.
//
// The loop also judges when this pod may serve peers ([Discovery.Ready]): when its
// pods have been looked up and dialed and its own name leads to it, or when that
// has taken too long. See ADR-0026 and ADR-0027.
package discovery

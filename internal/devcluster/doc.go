// Package devcluster is what `relay dev` starts: a relay on loopback, in this
// process, with a secret of its own, and a check that two peers can talk
// through it. It uses the packages relay and client as any program that embeds
// them does, and nothing that others could not.
package devcluster

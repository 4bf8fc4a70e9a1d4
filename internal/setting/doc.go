// Package setting reads what an operator sets: flags on the command line and,
// for what no flag gave, variables of the environment.
//
// A [Set] holds settings in groups. Each is a flag and has a variable, its name
// in upper case behind one of the [Prefixes], so that the environment of an
// existing deployment of a relay with this wire works as it is. Everything that
// is wrong is found before anything starts, is said together, and says which
// setting, what it was and what would be right; the value of a secret is never
// said.
//
// [Relay] is what `relay start` is told, with its defaults and its rules. The
// package opens and starts nothing.
package setting

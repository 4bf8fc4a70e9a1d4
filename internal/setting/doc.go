// Package setting reads what an operator sets: flags on the command line and,
// for what no flag gave, variables of the environment.
//
// A [Set] holds settings in groups. Each is a flag and has a variable, its name
// in upper case behind one of the [Prefixes], so that the environment of an
// existing deployment of a relay with this wire works as it is. Everything that
// is wrong is found before anything starts and is reported together: which
// setting, its value, and what would be right. The value of a secret is never
// printed.
package setting

// Command relay is the relay and what goes with it: it serves peers, makes
// tokens for them, joins a terminal to one, and shows and measures itself.
//
// The package reads flags, listens to signals and puts the parts together; what
// the parts do is in the packages it imports. It exits with 0 when all went
// well, with 2 when an argument or a setting is missing or wrong, and with 1 for
// everything else.
package main

//go:build race

package link_test

// raceEnabled says that pools drop some of what they are given, on purpose.
const raceEnabled = true

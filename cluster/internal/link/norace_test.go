//go:build !race

package link_test

// raceEnabled says that pools keep what they are given.
const raceEnabled = false

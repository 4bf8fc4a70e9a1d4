//go:build !race

package ws_test

// raceEnabled says that pools keep what they are given.
const raceEnabled = false

//go:build !race

package sendq

// raceEnabled says that pools keep what they are given.
const raceEnabled = false

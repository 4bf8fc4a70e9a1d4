//go:build race

package relay

// RaceEnabled says that the tests run with the race detector.
const RaceEnabled = true

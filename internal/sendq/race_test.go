//go:build race

package sendq

// raceEnabled says that pools drop some of what they are given, on purpose.
const raceEnabled = true

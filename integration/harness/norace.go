//go:build !race

package harness

// RaceEnabled tells that the tests run with the race detector.
const RaceEnabled = false

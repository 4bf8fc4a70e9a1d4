// Package status is what one pod sees of its cluster, in a form that people and
// programs read, and what follows from it: [Status.Diagnose] finds what is wrong
// and says what to do, judging by the status alone. cluster doctor prints it.
package status

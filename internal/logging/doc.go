// Package logging opens the log of a program: to the console, to syslog or to a
// file that is moved aside when it is large, as text or JSON, with a level that can be
// changed while the program runs.
package logging

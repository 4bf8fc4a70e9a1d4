// Package oslimit finds what the system lets this process use: memory and open
// files.
package oslimit

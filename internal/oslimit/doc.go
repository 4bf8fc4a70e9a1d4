// Package oslimit finds how much memory and how many open files the system allows this
// process.
package oslimit

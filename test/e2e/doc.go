// Package e2e tests the relay binary as people and operators use it: started
// with flags and variables, stopped with signals, on loopback only. The tests
// have the build tag e2e:
//
//	make e2e
package e2e

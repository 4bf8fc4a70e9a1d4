// Package flow is what tests of whole pods share: messages that flow from one
// peer to another while something happens to the pods, and the wait for
// something to come about.
package flow

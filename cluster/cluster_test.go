package cluster

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestMessagesCrossPodsBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 10*time.Millisecond, "a", "b", "c")
		f.pod("a").join("alice")
		f.pod("b").join("bob")
		time.Sleep(time.Second)
		f.pod("a").send("alice", "bob", "hello")
		f.pod("b").send("bob", "alice", "hi")
		time.Sleep(time.Second)
		t.Log("\n" + f.text())
		f.account()
	})
}

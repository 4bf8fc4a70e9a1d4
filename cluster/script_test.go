package cluster

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/crosspod/crosspod/cluster/internal/directory"
	"github.com/crosspod/crosspod/cluster/internal/wire"
	"github.com/crosspod/crosspod/messages"
)

var update = flag.Bool("update", false, "write the traces of testdata/*.txt anew")

// traceMark stands between the steps of a script and its trace.
const traceMark = "--- trace\n"

// TestScripts runs the conversations in testdata: steps, then what the pods and
// peers see, in milliseconds since the pods had settled. Run it with -update to
// write the traces, and read the difference.
//
//	pods a b c           the pods that run from the start
//	latency 10ms         of the network, one way; before pods
//	start a, stop a      a pod more; one that leaves properly
//	crash a              one that is killed
//	join bob a           bob connects to a; leave bob a
//	watch a bob          a peer of a subscribes to bob; unwatch a bob
//	send a ann bob hi    a peer of a, ann, sends bob a message
//	locate a bob         a asks where bob is
//	cut a b              a is not heard by b; heal a b; reset a b
//	homes bob            which pods keep what is known of bob
//	sleep 1s             nothing more is done for so long
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			steps, want, _ := strings.Cut(string(text), traceMark)
			var got string
			synctest.Test(t, func(t *testing.T) { got = runScript(t, steps) })
			if *update {
				if err := os.WriteFile(file, []byte(steps+traceMark+got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// runScript does the steps and returns the trace.
func runScript(t *testing.T, steps string) string {
	var (
		f    *fleet
		next time.Time
	)
	latency := 10 * time.Millisecond
	for line := range strings.Lines(steps) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		do, rest, _ := strings.Cut(line, " ")
		arg := strings.Fields(rest)
		duration := func() time.Duration {
			d, err := time.ParseDuration(arg[0])
			if err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			return d
		}
		switch do {
		case "latency":
			latency = duration()
			continue
		case "pods":
			f = newFleet(t, latency, arg...)
			next = f.began
			continue
		case "sleep":
			// Whatever the steps before have taken.
			next = next.Add(duration())
			time.Sleep(time.Until(next))
			continue
		}
		f.note("> %s", line)
		switch do {
		case "start":
			f.start(arg[0])
		case "stop":
			f.pod(arg[0]).stop()
		case "crash":
			f.crash(arg[0])
		case "join":
			f.pod(arg[1]).join(arg[0])
		case "leave":
			f.pod(arg[1]).leave(arg[0])
		case "watch":
			f.pod(arg[0]).subscribe(arg[1])
		case "unwatch":
			f.pod(arg[0]).unsubscribe(arg[1])
		case "send":
			n := 1
			if len(arg) > 4 {
				n, _ = strconv.Atoi(arg[4])
			}
			for range n {
				f.pod(arg[0]).send(arg[1], arg[2], arg[3])
			}
		case "locate":
			pod, ok := f.pod(arg[0]).Forwarder.Locate(t.Context(), messages.HashID(arg[1]))
			f.note("%s: %s is at %q, %v", arg[0], arg[1], strings.TrimSuffix(pod, ":7090"), ok)
		case "cut":
			f.net.Cut(ip(arg[0]), ip(arg[1]))
		case "heal":
			f.net.Heal(ip(arg[0]), ip(arg[1]))
		case "reset":
			f.net.Reset(ip(arg[0]), ip(arg[1]))
		case "homes":
			f.note("%s", strings.Join(f.homes(arg[0]), " "))
		default:
			t.Fatalf("what is %q?", line)
		}
	}
	f.account()
	return f.sorted()
}

// sorted is the trace; what happened in the same millisecond, between two
// steps, is in the order of the alphabet.
func (f *fleet) sorted() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var b strings.Builder
	for rest := f.trace; len(rest) > 0; {
		n := 1
		isStep := func(line string) bool { return strings.Contains(line, "ms  > ") }
		if !isStep(rest[0]) {
			for n < len(rest) && rest[n][:9] == rest[0][:9] && !isStep(rest[n]) {
				n++
			}
		}
		same := slices.Sorted(slices.Values(rest[:n]))
		for _, line := range same {
			fmt.Fprintln(&b, line)
		}
		rest = rest[n:]
	}
	return b.String()
}

// homes are the pods that keep what is known of a peer, when all agree on who is
// there.
func (f *fleet) homes(name string) []string {
	pods := f.running()
	who := make(map[wire.PodID]string)
	d := directory.New(directory.Config{Self: pods[0].transport.Self()})
	for i, p := range pods {
		who[p.transport.Self().ID] = p.name
		if i > 0 {
			d.SessionUp(0, directory.Session(i), p.transport.Self())
		}
	}
	var homes []string
	for _, id := range d.Homes(wire.PeerName(messages.HashID(name))) {
		homes = append(homes, who[id])
	}
	return homes
}

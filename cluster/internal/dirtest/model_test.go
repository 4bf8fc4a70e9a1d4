package dirtest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

var (
	steps       = flag.Int("steps", 20_000, "events of the model check, for each profile")
	seed        = flag.Uint64("seed", 1, "first seed of the model check")
	profile     = flag.String("profile", "", "the only profile of the model check; all by default")
	found       = flag.String("found", "", "folder to write failing runs to, made short")
	entryTraces = flag.Bool("entries", false, "have the traces of failing runs show every directory entry")
	failing     = flag.Int("failing", 1, "failing runs after which the model check of a profile gives up")
)

// TestModel runs the directory through random runs of every profile. A failure
// prints its seed and the shortest run that fails in the same way; keep that in
// testdata/found when the fault is mended. For a long run:
//
//	go test ./cluster/internal/dirtest -run TestModel -steps 2000000 -seed 1000000 -timeout 1h -v
func TestModel(t *testing.T) {
	for _, p := range Profiles {
		if *profile != "" && *profile != p.Name {
			continue
		}
		t.Run(p.Name, func(t *testing.T) {
			t.Parallel()
			check(t, p, *steps)
		})
	}
}

func check(t *testing.T, p Profile, steps int) {
	var sum tally
	start := time.Now()
	failed := 0
	for s := *seed; sum.Steps < steps; s++ {
		script := Generate(p, s)
		r := Run(script, false)
		sum.add(r)
		if r.Violation == "" {
			continue
		}
		failed++
		fail(t, p, s, script, r)
		if failed >= *failing {
			break
		}
	}
	t.Logf("%v, %d failed, %.1f s", &sum, failed, time.Since(start).Seconds())
}

func fail(t *testing.T, p Profile, seed uint64, script *Script, r Result) {
	t.Helper()
	short := Shrink(script, 1500)
	again := Run(short, true)
	short.Comment = append(short.Comment, again.Violation)
	t.Errorf("%s, seed %d, after %.1f ms: %s\nshortest:\n%s\ntrace:\n%s", p.Name, seed, r.ViolationMs, r.Violation, short, again.Trace)
	if *found != "" {
		name := filepath.Join(*found, fmt.Sprintf("%s-%d.txt", p.Name, seed))
		if err := os.WriteFile(name, []byte(short.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
}

// tally adds up results.
type tally struct {
	Result
	runs, outOfTouch int
}

func (s *tally) add(r Result) {
	s.runs++
	s.Steps += r.Steps
	s.Lookups += r.Lookups
	s.Notices += r.Notices
	s.Messages += r.Messages
	s.Entries += r.Entries
	s.CloseCalls += r.CloseCalls
	s.BornApart += r.BornApart
	s.TakenBack += r.TakenBack
	if r.OutOfTouch {
		s.outOfTouch++
	}
}

func (s *tally) String() string {
	return fmt.Sprintf("%d runs (%d out of touch), %d steps, %d lookups, %d notices, %d messages, %d close calls, %d born apart, %d taken back",
		s.runs, s.outOfTouch, s.Steps, s.Lookups, s.Notices, s.Messages, s.CloseCalls, s.BornApart, s.TakenBack)
}

func TestMain(m *testing.M) {
	flag.Parse()
	TraceEntries = *entryTraces
	os.Exit(m.Run())
}

package bench

import (
	"os"
	"runtime"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	const rest = " S 1 4 4 0 -1 4194560 1 2 3 4 250 75 8 9 20 0 5 0 100 1 2\n"
	for _, test := range []struct {
		name, line string
		want       time.Duration
		fails      bool
	}{
		{"plain", "17 (relay)" + rest, 3250 * time.Millisecond, false},
		{"brackets and blanks in the name", "17 (a) S 1 (b c) 9)" + rest, 3250 * time.Millisecond, false},
		{"empty", "", 0, true},
		{"short", "17 (relay) S 1 4", 0, true},
		{"not a number", "17 (relay) S 1 4 4 0 -1 4194560 1 2 3 4 x 75 8 9", 0, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := parseStat([]byte(test.line))
			if got != test.want || (err != nil) != test.fails {
				t.Errorf("parseStat = %v, %v, want %v, fails %v", got, err, test.want, test.fails)
			}
		})
	}
}

func TestParseStatus(t *testing.T) {
	const status = "Name:\trelay\nVmPeak:\t  999 kB\nVmRSS:\t   5432 kB\nRssAnon:\t   1234 kB\nRssFile:\t    10 kB\n"
	got, err := parseStatus([]byte(status))
	if want := (memory{RSS: 5432 << 10, Anon: 1234 << 10}); err != nil || got != want {
		t.Errorf("parseStatus = %+v, %v, want %+v", got, err, want)
	}
	if _, err := parseStatus([]byte("Name:\tgone\nState:\tZ (zombie)\n")); err == nil {
		t.Error("a process that has ended has memory")
	}
	if _, err := parseStatus([]byte("VmRSS:\t many kB\n")); err == nil {
		t.Error("a number that is none is accepted")
	}
}

// TestOwnProcess reads this process: work must show in its CPU time, held
// memory in its RSS.
func TestOwnProcess(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	before, err := processCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	memoryBefore, err := processMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = byte(i)
	}
	after, err := processCPU(os.Getpid())
	if err != nil || after <= before {
		t.Errorf("CPU time %v, then %v, %v", before, after, err)
	}
	memoryAfter, err := processMemory(os.Getpid())
	if err != nil || memoryAfter.sub(memoryBefore).Anon < int64(len(held))/2 {
		t.Errorf("memory %+v, then %+v with %d bytes more, %v", memoryBefore, memoryAfter, len(held), err)
	}
	runtime.KeepAlive(held)
	if _, err := processCPU(1 << 30); err == nil {
		t.Error("a process that cannot exist has CPU time")
	}
}

func TestParseMachineStat(t *testing.T) {
	got, err := parseMachineStat([]byte("cpu  100 20 30 9999 8888 4 5 6 100 20\ncpu0 1 2 3 4 5 6 7 8 9 10\n"))
	if want := 1650 * time.Millisecond; got != want || err != nil {
		t.Errorf("parseMachineStat = %v, %v, want %v", got, err, want)
	}
	for _, bad := range []string{"", "cpu 1 2 3", "intr 1 2 3 4 5 6 7 8 9", "cpu 1 2 x 4 5 6 7 8 9"} {
		if got, err := parseMachineStat([]byte(bad)); err == nil {
			t.Errorf("parseMachineStat(%q) = %v, want an error", bad, got)
		}
	}
}

func TestReadings(t *testing.T) {
	cpus := float64(runtime.NumCPU())
	from := reading{at: 1e9, server: 5e9, own: 2e9, machine: 100e9}
	to := reading{at: 3e9, server: 6e9, own: 2.5e9, machine: 102e9}
	u := from.to(to)
	if want := (used{took: 2e9, server: 1e9, own: 0.5e9, others: 0.25 / cpus}); u != want {
		t.Errorf("used %+v, want %+v", u, want)
	}
	from.server, to.server = 0, 0
	if u := from.to(to); u.others != 0 {
		t.Errorf("with an unknown server %+v, want no share of others", u)
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel([]byte("processor\t: 0\nmodel name\t: Some CPU: fast\n\nprocessor\t: 1\n")); got != "Some CPU: fast" {
		t.Errorf("cpuModel = %q", got)
	}
}

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

var processStart = time.Now()

// clock returns nanoseconds of the monotonic clock since the process started.
func clock() int64 { return int64(time.Since(processStart)) }

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// processMemory returns VmRSS and RssAnon of a process, in bytes.
func processMemory(pid int) (rss, anon int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		kb, _ := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64) // other lines: not numbers
		switch name {
		case "VmRSS":
			rss = kb << 10
		case "RssAnon":
			anon = kb << 10
		}
	}
	if rss == 0 {
		return 0, 0, errors.New("no VmRSS: the process has ended")
	}
	return rss, anon, nil
}

// machineBusy returns how long all CPUs together have been at work, time stolen
// by a hypervisor included; 0 where that is unknown.
func machineBusy() (busy time.Duration) {
	b, _ := os.ReadFile("/proc/stat")
	fields := strings.Fields(string(b))
	// cpu user nice system idle iowait irq softirq steal; guests are in user.
	for i := 1; i < min(9, len(fields)); i++ {
		if ticks, _ := strconv.ParseInt(fields[i], 10, 64); i != 4 && i != 5 {
			busy += time.Duration(ticks) * time.Second / 100 // USER_HZ wherever Go runs
		}
	}
	return busy
}

// reading is what clocks say at one moment.
type reading struct {
	at                   int64
	server, own, machine time.Duration
}

// read reads all clocks.
func read(t *target) (now reading, err error) {
	if now.server, err = t.cpu(); err != nil {
		return now, err
	}
	now.own, _ = processCPU(os.Getpid()) // without it the generator's figure is 0
	now.machine = machineBusy()
	now.at = clock()
	return now, nil
}

// used is what happened between two readings.
type used struct {
	took, server, own time.Duration
	// others is the share of all CPUs, 0 to 1, that was busy with neither server
	// nor generator.
	others float64
}

func (from reading) to(now reading) used {
	u := used{took: time.Duration(now.at - from.at), server: now.server - from.server, own: now.own - from.own}
	if from.machine != 0 {
		rest := now.machine - from.machine - u.server - u.own
		u.others = max(0, float64(rest)/float64(u.took)/float64(runtime.NumCPU()))
	}
	return u
}

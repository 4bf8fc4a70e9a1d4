package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// errNoProc means that this system tells nothing about other processes.
var errNoProc = errors.New("bench: CPU and memory of a process can be read on Linux only")

// memory is what a process holds, in bytes.
type memory struct {
	RSS  int64 `json:"rss_bytes"`
	Anon int64 `json:"anon_bytes"` // the part without files: heap, stacks
}

func (m memory) sub(o memory) memory { return memory{RSS: m.RSS - o.RSS, Anon: m.Anon - o.Anon} }

// processMemory reads VmRSS and RssAnon of a process.
func processMemory(pid int) (memory, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		if runtime.GOOS != "linux" {
			err = errNoProc
		}
		return memory{}, fmt.Errorf("memory of process %d: %w", pid, err)
	}
	return parseStatus(b)
}

// parseStatus reads the memory lines of /proc/PID/status.
func parseStatus(b []byte) (memory, error) {
	var m memory
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ":")
		var field *int64
		switch name {
		case "VmRSS":
			field = &m.RSS
		case "RssAnon":
			field = &m.Anon
		default:
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return memory{}, fmt.Errorf("%s: %w", name, err)
		}
		*field = kb << 10
	}
	if m.RSS == 0 {
		return memory{}, errors.New("no VmRSS: the process has ended")
	}
	return m, nil
}

// userHz is the unit of the times in /proc/PID/stat: USER_HZ is 100 on every
// architecture that Go runs on.
const userHz = 100

// parseStat reads user and system time from /proc/PID/stat.
func parseStat(b []byte) (time.Duration, error) {
	// The second field is the program's name in brackets and may hold spaces
	// and brackets; the third begins after the last ')'.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, errors.New("malformed stat line")
	}
	fields := strings.Fields(string(b[i+1:]))
	const utime, stime = 14 - 3, 15 - 3 // proc(5) counts from 1
	if len(fields) <= stime {
		return 0, errors.New("malformed stat line")
	}
	var ticks int64
	for _, f := range []string{fields[utime], fields[stime]} {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("malformed stat line: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHz, nil
}

// parseMachineStat reads from /proc/stat how long all CPUs together have been
// at work, time stolen by a hypervisor included.
func parseMachineStat(b []byte) (time.Duration, error) {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	fields := strings.Fields(string(line))
	// user nice system idle iowait irq softirq steal; guests are in user.
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, errors.New("malformed /proc/stat")
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("malformed /proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / userHz, nil
}

// reading is what clocks say at one moment.
type reading struct {
	at      int64
	server  time.Duration // 0: unknown
	own     time.Duration
	machine time.Duration // 0: unknown
}

// read reads all clocks. It fails only when the server's process is known and
// cannot be read, because it has ended.
func read(t target) (now reading, err error) {
	if now.server, err = t.cpu(); err != nil && !errors.Is(err, errNoPID) && !errors.Is(err, errNoProc) {
		return reading{}, err
	}
	now.own, _ = processCPU(os.Getpid()) // of no use without the server's, which has failed as well
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		now.machine, _ = parseMachineStat(b) // a figure for the reader, who does without
	}
	now.at = clock()
	return now, nil
}

// used is what happened between two readings.
type used struct {
	took, server, own time.Duration
	// others is the share of all CPUs that neither server nor generator used
	// and that was not idle, 0 to 1; 0 too when it is unknown.
	others float64
}

func (from reading) to(now reading) used {
	u := used{took: time.Duration(now.at - from.at), server: now.server - from.server, own: now.own - from.own}
	if from.machine != 0 && from.server != 0 {
		rest := now.machine - from.machine - u.server - u.own
		u.others = max(0, float64(rest)/float64(u.took)/float64(runtime.NumCPU()))
	}
	return u
}

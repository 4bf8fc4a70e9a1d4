package relay

import (
	"bytes"
	"math"
	"os"
	"runtime/debug"
	"strconv"
)

// fallbackMemory is assumed where nothing tells how much memory there is.
const fallbackMemory = 1 << 30

// memoryLimit returns the memory this process may use, in bytes: GOMEMLIMIT,
// else the cgroup's limit, else the machine's memory.
func memoryLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit != math.MaxInt64 {
		return limit
	}
	total := int64(fallbackMemory)
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		if n := memTotal(info); n > 0 {
			total = n
		}
	}
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		// "max", or a number larger than the machine, means no limit.
		if limit, err := strconv.ParseInt(string(bytes.TrimSpace(text)), 10, 64); err == nil && limit > 0 && limit < total {
			return limit
		}
	}
	return total
}

// memTotal returns the machine's memory from the text of /proc/meminfo, in
// bytes, 0 if it does not say.
func memTotal(info []byte) int64 {
	for line := range bytes.Lines(info) {
		fields := bytes.Fields(line)
		if len(fields) < 2 || string(fields[0]) != "MemTotal:" {
			continue
		}
		kib, err := strconv.ParseInt(string(fields[1]), 10, 64)
		if err != nil {
			return 0
		}
		return kib << 10
	}
	return 0
}

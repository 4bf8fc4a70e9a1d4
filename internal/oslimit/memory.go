package oslimit

import (
	"io/fs"
	"math"
	"os"
	"path"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// fallbackMemory is assumed if the amount of memory cannot be found.
const fallbackMemory = 1 << 30

// Memory is how much memory this process may use.
type Memory struct {
	Bytes int64
	From  string // where the limit comes from: a file, or GOMEMLIMIT
}

// FindMemory returns the smallest of GOMEMLIMIT, the limits of the process's cgroup and
// of all cgroups above it, and the machine's memory.
func FindMemory() Memory {
	m := memoryIn(os.DirFS("/"))
	if limit := debug.SetMemoryLimit(-1); limit < m.Bytes {
		m = Memory{limit, "GOMEMLIMIT"}
	}
	return m
}

// memoryIn is FindMemory without GOMEMLIMIT. root is the folder that proc and
// sys are in.
func memoryIn(root fs.FS) Memory {
	m := Memory{fallbackMemory, "a guess"}
	if n, ok := valueOf(read(root, "proc/meminfo"), "MemTotal:"); ok && n < math.MaxInt64>>10 {
		m = Memory{n << 10, "/proc/meminfo"}
	}
	for _, h := range hierarchies(root) {
		for dir := h.own; ; dir = path.Dir(dir) {
			for _, file := range h.files {
				// "max", or a number larger than the machine, means no limit.
				name := path.Join(dir, file)
				text := strings.TrimSpace(read(root, name))
				n, err := strconv.ParseInt(text, 10, 64)
				if err != nil {
					n, _ = valueOf(text, "hierarchical_memory_limit")
				}
				if n > 0 && n < m.Bytes {
					m = Memory{n, "/" + name}
				}
			}
			if dir == h.mount || dir == "." {
				break
			}
		}
	}
	return m
}

// hierarchy is a tree of cgroups that may limit memory, as it is mounted. Paths
// have no slash at the beginning, as [fs.FS] wants them.
type hierarchy struct {
	mount string
	own   string   // the process's cgroup, mount or below it
	files []string // the files with limits
}

var (
	filesV2 = []string{"memory.max", "memory.high"}
	// memory.stat has the smallest limit of all cgroups above, including those that a
	// container does not see.
	filesV1 = []string{"memory.limit_in_bytes", "memory.stat"}
)

// hierarchies returns the hierarchies that the process is in. Their folders may be
// hidden from it.
func hierarchies(root fs.FS) []hierarchy {
	var pathV1, pathV2 string
	for line := range strings.Lines(read(root, "proc/self/cgroup")) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(fields) < 3:
		case fields[0] == "0" && fields[1] == "":
			pathV2 = fields[2]
		case slices.Contains(strings.Split(fields[1], ","), "memory"):
			pathV1 = fields[2]
		}
	}
	var all []hierarchy
	for line := range strings.Lines(read(root, "proc/self/mountinfo")) {
		// proc_pid_mountinfo(5): id, parent, device, root, mount point,
		// options, any number of fields, "-", type, source, options.
		fields := strings.Fields(line)
		end := slices.Index(fields, "-")
		if end < 6 || len(fields) < end+4 {
			continue
		}
		mountRoot, mount := unescape(fields[3]), strings.TrimPrefix(unescape(fields[4]), "/")
		switch kind, options := fields[end+1], fields[end+3]; {
		case kind == "cgroup2" && pathV2 != "":
			all = append(all, hierarchy{mount, path.Join(mount, below(mountRoot, pathV2)), filesV2})
		case kind == "cgroup" && pathV1 != "" && slices.Contains(strings.Split(options, ","), "memory"):
			all = append(all, hierarchy{mount, path.Join(mount, below(mountRoot, pathV1)), filesV1})
		}
	}
	if len(all) == 0 { // not in proc: they are nearly always here
		all = []hierarchy{
			{"sys/fs/cgroup", "sys/fs/cgroup", filesV2},
			{"sys/fs/cgroup/memory", "sys/fs/cgroup/memory", filesV1},
		}
	}
	return all
}

// below returns the path of a cgroup relative to the mounted folder. It is "" if the
// cgroup is that folder, or if its place below is not known. Both paths are as seen in
// the process's cgroup namespace, where "/.." is above it.
func below(mountRoot, cgroup string) string {
	rest, ok := strings.CutPrefix(cgroup, strings.TrimSuffix(mountRoot, "/")+"/")
	if !ok || slices.Contains(strings.Split(rest, "/"), "..") {
		return ""
	}
	return rest
}

// unescape reverses the kernel's escapes for blanks and backslashes in mountinfo.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// valueOf returns the number after key in a file with a key and a number on each line.
func valueOf(text, key string) (int64, bool) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) >= 2 && fields[0] == key {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n, err == nil && n > 0
		}
	}
	return 0, false
}

// read returns the text of a file, "" when it cannot be read.
func read(root fs.FS, name string) string {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return ""
	}
	return string(text)
}

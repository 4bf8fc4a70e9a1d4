package oslimit

import (
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"testing/fstest"
)

// The tightest limit between the process's own cgroup and the root counts.
func TestMemory(t *testing.T) {
	const (
		machine = "MemTotal:       16384000 kB\nMemFree:        1 kB\n"
		all     = 16384000 << 10
		v2      = "31 24 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
		v1      = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n" +
			"35 30 0:32 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
			"36 30 0:33 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n"
		none = "9223372036854771712\n" // what v1 says where there is no limit
	)
	tests := []struct {
		name  string
		tree  map[string]string // below proc/self and sys/fs/cgroup, and meminfo
		bytes int64
		from  string
	}{
		{"nothing is known", nil, 1 << 30, "a guess"},
		{"the machine", map[string]string{"meminfo": machine}, all, "/proc/meminfo"},
		{"container of its own", map[string]string{"cgroup": "0::/\n", "mountinfo": v2, "memory.max": "536870912\n", "meminfo": machine},
			512 << 20, "/sys/fs/cgroup/memory.max"},
		{"without mountinfo", map[string]string{"memory.max": "536870912\n", "meminfo": machine}, 512 << 20, "/sys/fs/cgroup/memory.max"},
		{"v1 without mountinfo", map[string]string{"memory/memory.limit_in_bytes": "536870912\n", "meminfo": machine}, 512 << 20, "/sys/fs/cgroup/memory/memory.limit_in_bytes"},
		{"own cgroup, systemd", map[string]string{"cgroup": "0::/system.slice/relay.service\n", "mountinfo": v2, "meminfo": machine,
			"system.slice/relay.service/memory.max": "268435456\n", "system.slice/memory.max": "max\n"},
			256 << 20, "/sys/fs/cgroup/system.slice/relay.service/memory.max"},
		{"a parent, tighter", map[string]string{"cgroup": "0::/kubepods.slice/pod1.slice/relay.scope\n", "mountinfo": v2, "meminfo": machine,
			"kubepods.slice/pod1.slice/relay.scope/memory.max": "max\n", "kubepods.slice/pod1.slice/memory.max": "268435456\n", "kubepods.slice/memory.max": "1073741824\n"},
			256 << 20, "/sys/fs/cgroup/kubepods.slice/pod1.slice/memory.max"},
		{"throttled before it is killed", map[string]string{"cgroup": "0::/a\n", "mountinfo": v2, "meminfo": machine,
			"a/memory.max": "268435456\n", "a/memory.high": "134217728\n"}, 128 << 20, "/sys/fs/cgroup/a/memory.high"},
		{"a limit above the machine", map[string]string{"cgroup": "0::/a\n", "mountinfo": v2, "meminfo": machine, "a/memory.max": "99999999999999\n"}, all, "/proc/meminfo"},
		{"another process's cgroup", map[string]string{"cgroup": "0::/a\n", "mountinfo": v2, "meminfo": machine, "b/memory.max": "4096\n"}, all, "/proc/meminfo"},
		{"v1, own", map[string]string{"cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/x\n", "mountinfo": v1, "meminfo": machine,
			"memory/memory.limit_in_bytes": none, "memory/docker/abc/memory.limit_in_bytes": "268435456\n"},
			256 << 20, "/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes"},
		{"v1, a parent", map[string]string{"cgroup": "5:memory:/docker/abc\n", "mountinfo": v1, "meminfo": machine,
			"memory/docker/memory.limit_in_bytes": "268435456\n", "memory/docker/abc/memory.limit_in_bytes": none},
			256 << 20, "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes"},
		{"v1, a container that sees its own alone", map[string]string{"cgroup": "5:memory:/docker/abc\n", "meminfo": machine,
			"mountinfo":                    "36 30 0:33 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			"memory/memory.limit_in_bytes": "268435456\n"}, 256 << 20, "/sys/fs/cgroup/memory/memory.limit_in_bytes"},
		{"v1, above what is seen", map[string]string{"cgroup": "5:memory:/docker/abc\n", "meminfo": machine,
			"mountinfo":                    "36 30 0:33 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
			"memory/memory.limit_in_bytes": none, "memory/memory.stat": "cache 4096\nhierarchical_memory_limit 134217728\n"},
			128 << 20, "/sys/fs/cgroup/memory/memory.stat"},
		{"both, the memory in v1", map[string]string{"cgroup": "5:memory:/a\n0::/b\n", "meminfo": machine,
			"mountinfo": v1 + "41 30 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n", "memory/a/memory.limit_in_bytes": "268435456\n"},
			256 << 20, "/sys/fs/cgroup/memory/a/memory.limit_in_bytes"},
		{"the mounted folder is above the namespace", map[string]string{"cgroup": "0::/\n", "meminfo": machine,
			"mountinfo": "31 24 0:28 /.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "memory.max": "268435456\n"}, 256 << 20, "/sys/fs/cgroup/memory.max"},
		{"names with blanks and backslashes", map[string]string{"cgroup": "0::/my relay.slice/a\\x2db:c\n", "meminfo": machine,
			"mountinfo":                    `31 24 0:28 /my\040relay.slice /sys/fs/cgroup/the\040tree rw - cgroup2 cgroup2 rw` + "\n",
			`the tree/a\x2db:c/memory.max`: "268435456\n"}, 256 << 20, `/sys/fs/cgroup/the tree/a\x2db:c/memory.max`},
		{"no sense at all", map[string]string{"cgroup": "::\n0\n0::/../../etc\n", "mountinfo": v2 + "- - -\n36\n", "meminfo": machine, "memory.max": "-5\n"}, all, "/proc/meminfo"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree := fstest.MapFS{}
			for name, text := range tt.tree {
				switch name {
				case "meminfo":
					name = "proc/" + name
				case "cgroup", "mountinfo":
					name = "proc/self/" + name
				default:
					name = "sys/fs/cgroup/" + name
				}
				tree[name] = &fstest.MapFile{Data: []byte(text)}
			}
			if got := memoryIn(tree); got != (Memory{tt.bytes, tt.from}) {
				t.Errorf("memory %+v, want %d from %s", got, tt.bytes, tt.from)
			}
		})
	}
}

func TestMemoryOfThisProcess(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(64 << 20))
	if got, want := FindMemory(), (Memory{64 << 20, "GOMEMLIMIT"}); got != want {
		t.Errorf("memory %+v, want %+v", got, want)
	}
	debug.SetMemoryLimit(1 << 60)
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		t.Skip(err)
	}
	total, _ := valueOf(string(info), "MemTotal:")
	if got := FindMemory(); got.Bytes > total<<10 || got.Bytes < 1 || !strings.HasPrefix(got.From, "/") {
		t.Errorf("with a GOMEMLIMIT above the machine: %+v, want the machine's %d KiB or less", got, total)
	}
}

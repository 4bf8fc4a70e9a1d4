package main

import (
	"fmt"
	"syscall"
	"time"
	"unsafe"
)

// processCPU returns the CPU time a process has used, user and system, of all
// its threads, those included that have ended. It asks the clock of the process
// (clock_getcpuclockid(3)), which counts in nanoseconds and needs no permission;
// /proc/PID/stat counts in steps of 10 ms.
func processCPU(pid int) (time.Duration, error) {
	const cpuclockSched = 2
	clock := int32(^uint32(pid)<<3 | cpuclockSched)
	var ts syscall.Timespec
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_GETTIME, uintptr(clock), uintptr(unsafe.Pointer(&ts)), 0); errno != 0 {
		return 0, fmt.Errorf("CPU time of process %d: %w", pid, errno)
	}
	return time.Duration(ts.Nano()), nil
}

// sleepUntil sleeps until t nanoseconds on the clock of [clock], in the kernel
// and not in the scheduler of Go, whose timers are late by up to a millisecond
// when the process idles. The calling goroutine must hold its thread.
func sleepUntil(t int64) {
	for d := t - clock(); d > 0; d = t - clock() {
		ts := syscall.NsecToTimespec(d)
		_ = syscall.Nanosleep(&ts, nil) // interrupted: the loop sleeps the rest
	}
}

// preciseSleep lifts the 50 µs by which the kernel may delay the sleeps of this
// thread, and returns the function that sets them back.
func preciseSleep() (restore func()) {
	const prSetTimerslack = 29
	syscall.Syscall(syscall.SYS_PRCTL, prSetTimerslack, 1, 0)
	return func() { syscall.Syscall(syscall.SYS_PRCTL, prSetTimerslack, 0, 0) }
}

// endWithParent makes the kernel kill the child when this process dies, and
// keeps the terminal's Ctrl-C from it: its parent ends it.
func endWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

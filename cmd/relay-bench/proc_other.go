//go:build !linux

package main

import (
	"errors"
	"syscall"
	"time"
)

// errNoProc means that this system says nothing about other processes.
var errNoProc = errors.New("CPU and memory of a process can be read on Linux only")

func processCPU(int) (time.Duration, error) { return 0, errNoProc }

func sleepUntil(t int64) { time.Sleep(time.Duration(t - clock())) }

func preciseSleep() (restore func()) { return func() {} }

func endWithParent() *syscall.SysProcAttr { return nil }

//go:build !linux

package main

import (
	"syscall"
	"time"
)

func processCPU(int) (time.Duration, error) { return 0, errNoProc }

func sleepUntil(t int64) { time.Sleep(time.Duration(t - clock())) }

func preciseSleep() (restore func()) { return func() {} }

func endWithParent() *syscall.SysProcAttr { return nil }

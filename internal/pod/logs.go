package pod

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/crosspod/crosspod/internal/logging"
	"github.com/crosspod/crosspod/internal/setting"
)

// Logs is where the log goes. The log is there before the parts are.
type Logs struct {
	LogLevel           string
	LogFile            string
	LogFormat          string
	LogMaxSizeMB       int
	LogDisableRotation bool
}

func (c *Logs) settings(s *setting.Set) {
	s.Group("Logs")
	levels(s, &c.LogLevel, "log-level", "trace, debug, info, warn or error")
	c.LogFile, c.LogFormat = "console", "text"
	s.Func("log-file", "console", "console, syslog or a path", func(v string) error {
		if c.LogFile = v; isWord(v, "console", "syslog") {
			c.LogFile = strings.ToLower(v)
		}
		return nil
	}).Called("PATH")
	s.Func("log-format", "text", "text or json", func(v string) error {
		if !isWord(v, "text", "json") {
			return errors.New("want text or json")
		}
		c.LogFormat = strings.ToLower(v)
		return nil
	}).Called("FORMAT")
	s.Int(&c.LogMaxSizeMB, "log-max-size-mb", 15, 1, math.MaxInt>>20, "a log file of so many megabytes is put aside and compressed; 10 are kept, for 30 days")
	s.Bool(&c.LogDisableRotation, "log-disable-rotation", "leave a log file as it is")
}

// check looks at what would keep the file from being opened, and opens none: it
// would be made.
func (c *Logs) check(p *problems) {
	bad := func(err error) { p.add("%s is %q: open log file: %w", p.Source("log-file"), c.LogFile, err) }
	if c.LogFile == logging.Console || c.LogFile == logging.Syslog {
		return
	}
	if info, err := os.Stat(c.LogFile); err == nil && info.IsDir() {
		bad(errors.New("it is a folder: want a file in it"))
		return
	}
	folder := filepath.Dir(c.LogFile)
	if info, err := os.Stat(folder); err != nil {
		bad(fmt.Errorf("its folder: %w", err))
	} else if !info.IsDir() {
		bad(fmt.Errorf("%s is not a folder", folder))
	}
}

func levels(s *setting.Set, p *string, name, usage string) {
	*p = "info"
	s.Func(name, "info", usage, func(v string) error {
		// The names of NetBird.
		if !isWord(v, "trace", "debug", "info", "warn", "warning", "error", "fatal", "panic") {
			return errors.New("want trace, debug, info, warn or error")
		}
		*p = strings.ToLower(v)
		return nil
	}).Called("LEVEL")
}

// WithoutEffect is accepted, since the relays that this one replaces have it.
type WithoutEffect struct {
	STUN         bool
	STUNPorts    []int
	STUNLogLevel string
}

func (c *WithoutEffect) settings(s *setting.Set) {
	const usage = "this relay has no STUN server yet"
	c.STUNPorts = []int{3478}
	s.Group("Accepted, without effect")
	s.Bool(&c.STUN, "enable-stun", usage)
	fresh := true
	s.List("stun-ports", "3478", usage, func(v string) error {
		n, err := strconv.ParseUint(v, 10, 16)
		if err != nil || n == 0 {
			return errors.New("want ports from 1 to 65535, separated by commas")
		}
		if fresh { // the first one given replaces the default
			c.STUNPorts, fresh = nil, false
		}
		c.STUNPorts = append(c.STUNPorts, int(n))
		return nil
	})
	levels(s, &c.STUNLogLevel, "stun-log-level", usage)
}

func (c *WithoutEffect) check(*problems) {}

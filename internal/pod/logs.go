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
type Logs struct{ logging.Config }

func (c *Logs) settings(s *setting.Set) {
	s.Group("Logs")
	s.Word(&c.Level, "log-level", "info", anyLevel, anyLevel, levels...).Called("LEVEL")
	setting.Var(s, &c.File, "log-file", logging.Console, logging.Console, "console, syslog or a path", func(v string) (string, error) {
		if word := strings.ToLower(v); word == logging.Console || word == logging.Syslog {
			return word, nil
		}
		return v, nil
	}).Called("PATH")
	s.Word(&c.Format, "log-format", "text", "text or json", "text or json", "text", "json").Called("FORMAT")
	s.Int(&c.MaxSizeMB, "log-max-size-mb", 15, 1, math.MaxInt>>20, "size in megabytes at which the log file is rotated and compressed; 10 old files are kept, for 30 days")
	s.Bool(&c.DisableRotation, "log-disable-rotation", "do not rotate the log file")
}

// check looks at what would keep the file from being opened, and opens none: it
// would be made.
func (c *Logs) check(p *problems) {
	bad := func(err error) { p.add("%s is %q: open log file: %w", p.Source("log-file"), c.File, err) }
	if c.File == logging.Console || c.File == logging.Syslog {
		return
	}
	if info, err := os.Stat(c.File); err == nil && info.IsDir() {
		bad(errors.New("it is a folder: want a file in it"))
		return
	}
	folder := filepath.Dir(c.File)
	if info, err := os.Stat(folder); err != nil {
		bad(fmt.Errorf("its folder: %w", err))
	} else if !info.IsDir() {
		bad(fmt.Errorf("%s is not a folder", folder))
	}
}

// levels are NetBird's names of levels; anyLevel leaves out those that mean the same.
var levels = []string{"trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"}

const anyLevel = "trace, debug, info, warn or error"

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
	s.Word(&c.STUNLogLevel, "stun-log-level", "info", usage, anyLevel, levels...).Called("LEVEL")
}

func (c *WithoutEffect) check(*problems) {}

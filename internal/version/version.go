// Package version says which build of the program is running. It is a leaf and
// imports nothing of ours.
package version

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// Version is the released version, such as "v1.2.0". A release build sets it:
//
//	go build -ldflags "-X github.com/crosspod/crosspod/internal/version.Version=v1.2.0"
//
// Empty means that [Get] takes the version from what the Go toolchain recorded.
var Version string

const module = "github.com/crosspod/crosspod"

// Info describes a build. No field is ever empty.
type Info struct {
	Version  string // "v1.2.0", or "devel" when nothing was recorded
	Revision string // the commit, "+dirty" when files were changed; or "unknown"
	Go       string // the Go release it was built with, such as "go1.26.8"
}

// Get describes this build. It is safe for concurrent use and does its work once.
func Get() Info { return once() }

var once = sync.OnceValue(func() Info {
	info, _ := debug.ReadBuildInfo()
	return fromBuild(Version, info)
})

// fromBuild joins the version set by the linker with what the toolchain
// recorded. build may be nil: a program built without module support.
func fromBuild(version string, build *debug.BuildInfo) Info {
	out := Info{Version: version, Revision: "unknown", Go: runtime.Version()}
	if build != nil {
		if out.Version == "" {
			out.Version = recorded(build)
		}
		dirty := ""
		for _, s := range build.Settings {
			switch {
			case s.Key == "vcs.revision" && s.Value != "":
				out.Revision = s.Value
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = "+dirty"
			}
		}
		if out.Revision != "unknown" {
			out.Revision += dirty
		}
	}
	if out.Version == "" {
		out.Version = "devel"
	}
	return out
}

// recorded returns the version of our module, which is the main one in our own
// commands and a dependency in a program that embeds the relay.
func recorded(build *debug.BuildInfo) string {
	mod := &build.Main
	if mod.Path != module {
		for _, dep := range build.Deps {
			if dep.Path == module {
				mod = dep
			}
		}
	}
	if mod.Path != module || mod.Version == "(devel)" {
		return ""
	}
	return mod.Version
}

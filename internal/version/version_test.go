package version

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestFromBuild(t *testing.T) {
	settings := []debug.BuildSetting{
		{Key: "vcs.modified", Value: "true"},
		{Key: "vcs.revision", Value: "abc123"},
	}
	tests := []struct {
		name  string
		set   string
		build *debug.BuildInfo
		want  Info
	}{
		{"nothing known", "", nil, Info{Version: "devel", Revision: "unknown"}},
		{"set by the linker", "v1.2.0", nil, Info{Version: "v1.2.0", Revision: "unknown"}},
		{
			"development build", "",
			&debug.BuildInfo{Main: debug.Module{Path: module, Version: "(devel)"}},
			Info{Version: "devel", Revision: "unknown"},
		},
		{
			"recorded by the toolchain", "",
			&debug.BuildInfo{Main: debug.Module{Path: module, Version: "v1.3.0"}, Settings: settings},
			Info{Version: "v1.3.0", Revision: "abc123+dirty"},
		},
		{
			"linker before toolchain", "v2.0.0",
			&debug.BuildInfo{Main: debug.Module{Path: module, Version: "v1.3.0"}, Settings: settings[1:]},
			Info{Version: "v2.0.0", Revision: "abc123"},
		},
		{
			"embedded in another program", "",
			&debug.BuildInfo{
				Main: debug.Module{Path: "example.com/embedder", Version: "v9.9.9"},
				Deps: []*debug.Module{{Path: "example.com/other", Version: "v0.1.0"}, {Path: module, Version: "v1.4.0"}},
			},
			Info{Version: "v1.4.0", Revision: "unknown"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.want.Go = runtime.Version()
			if got := fromBuild(tt.set, tt.build); got != tt.want {
				t.Errorf("fromBuild = %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestGetFillsEveryField(t *testing.T) {
	if got := Get(); got.Version == "" || got.Revision == "" || got.Go == "" {
		t.Errorf("Get = %+v, want no empty field", got)
	}
}

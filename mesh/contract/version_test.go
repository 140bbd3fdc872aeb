package contract

import (
	"runtime/debug"
	"testing"
)

func TestDevelVersion(t *testing.T) {
	revision := debug.BuildSetting{Key: "vcs.revision", Value: "0123456789abcdef0123456789abcdef01234567"}
	dirty := debug.BuildSetting{Key: "vcs.modified", Value: "true"}
	clean := debug.BuildSetting{Key: "vcs.modified", Value: "false"}
	for _, tt := range []struct {
		settings []debug.BuildSetting
		want     string
	}{
		{nil, "devel"},
		{[]debug.BuildSetting{dirty}, "devel"},
		{[]debug.BuildSetting{revision, clean}, "devel+0123456789ab"},
		{[]debug.BuildSetting{revision, dirty}, "devel+0123456789ab-dirty"},
	} {
		if got := develVersion(tt.settings); got != tt.want {
			t.Errorf("develVersion(%v) = %q, want %q", tt.settings, got, tt.want)
		}
	}
	if Version() == "" {
		t.Error("Version is empty")
	}
}

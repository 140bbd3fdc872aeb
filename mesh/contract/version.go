package contract

import "runtime/debug"

// version is the release, set by the linker and never by the program:
//
//	go build -ldflags "-X github.com/weaveguard/weaveguard/mesh/contract.version=v0.1.0"
var version string

// revisionLength is how much of a commit hash a version shows.
const revisionLength = 12

// Version returns the release that this program was built as. Without one it is devel+ and the commit, with -dirty
// behind it when files had changed since, or just devel when the build knew no commit.
func Version() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	return develVersion(info.Settings)
}

func develVersion(settings []debug.BuildSetting) string {
	var revision, dirty string
	for _, s := range settings {
		switch {
		case s.Key == "vcs.revision":
			revision = "+" + s.Value[:min(len(s.Value), revisionLength)]
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "-dirty"
		}
	}
	if revision == "" {
		return "devel"
	}
	return "devel" + revision + dirty
}

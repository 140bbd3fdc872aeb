package lab

import (
	"fmt"
	"os"
	"strings"

	"github.com/weaveguard/weaveguard/test/internal/owned"
)

// helperPrefix starts argv[0] of a test binary that was started again as a
// helper.
const helperPrefix = "wglab:"

// A Helper is a function that runs in a process of its own, in a host. Its
// result is the exit status.
type Helper func(args []string) int

// Tests is what Main runs; *testing.M is one.
type Tests interface{ Run() int }

// Main runs the tests and returns the exit status for os.Exit. When the
// process was started as a helper it runs that instead. helpers adds to the
// lab's own, for Command.Helper.
func Main(m Tests, helpers map[string]Helper) int {
	if code, ok := RunHelper(helpers); ok {
		return code
	}
	builds, err := owned.New("build")
	if err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		return 1
	}
	defer builds.Remove()
	if err := os.Setenv(buildDirEnv, builds.Path); err != nil {
		fmt.Fprintln(os.Stderr, "lab: telling tests where to build:", err)
		return 1
	}
	return m.Run()
}

// RunHelper runs the helper that this process was started as; ok is false when
// it wasn't. Programs other than tests call it first in main.
func RunHelper(helpers map[string]Helper) (code int, ok bool) {
	name, found := strings.CutPrefix(os.Args[0], helperPrefix)
	if !found {
		return 0, false
	}
	name, _, _ = strings.Cut(name, " ")
	run := ownHelper(name)
	if run == nil {
		run = helpers[name]
	}
	if run == nil {
		fmt.Fprintf(os.Stderr, "lab: no helper %q in this program: pass it to lab.Main\n", name)
		return 1, true
	}
	// Args[1] only keeps a test binary without lab.Main from running its tests.
	return run(os.Args[2:]), true
}

func ownHelper(name string) Helper {
	switch name {
	case "init":
		return initMain
	case "datagrams":
		return datagramsMain
	case "transfer":
		return transferMain
	}
	return nil
}

// helperArgs is the argv of a helper.
func helperArgs(name string, args []string) []string {
	return append([]string{helperPrefix + name, "-test.run=^$"}, args...)
}

package main

import (
	"errors"
	"flag"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"weaveguard": main, pluginName: main, "kubectl": fakeKubectl})
}

// TestScripts runs testdata/*.txtar, which are the specification of what operators see. After a change on purpose,
// write what is printed now into them with: go test ./cmd/weaveguard -update
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			// A relative path is the same in every run.
			env.Setenv(socketEnv, "agent.sock")
			env.Setenv("COLUMNS", "")
			env.Setenv("VERSION", contract.Version())
			env.Setenv("PID", strconv.Itoa(os.Getpid()))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"agent":     startAgent,
			"old":       startOldAgent,
			"columns":   checkColumns,
			"closed":    runClosed,
			"socket":    leaveSocket,
			"wireguard": startWireGuard,
			"isolated":  runIsolated,
			"served":    checkServed,
			"taken":     takePort,
			"alike":     checkAlike,
		},
	})
}

var update = flag.Bool("update", false, "write what is printed now into testdata/*.txtar")

// checkColumns checks that no line of a file is wider than a number of columns: columns N FILE.
func checkColumns(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: columns N FILE")
	}
	limit, err := strconv.Atoi(args[0])
	ts.Check(err)
	for line := range strings.Lines(ts.ReadFile(args[1])) {
		if line = strings.TrimSuffix(line, "\n"); columns(line) > limit {
			ts.Fatalf("a line has %d columns, want at most %d: %s", columns(line), limit, line)
		}
		if strings.HasSuffix(line, " ") {
			ts.Fatalf("a line ends with a space: %q", line)
		}
	}
}

// runClosed runs a command whose output nobody reads, and checks that SIGPIPE ends it, as it does most programs (Go sees
// to that for the standard output, also where a parent has it ignored), and that it says nothing: closed COMMAND ARG...
func runClosed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: closed COMMAND ARG...")
	}
	read, write, err := os.Pipe()
	ts.Check(err)
	ts.Check(read.Close())
	var stderr strings.Builder
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = ts.Getenv("WORK"), environment(ts), write, &stderr
	err = cmd.Run()
	ts.Check(write.Close())
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		ts.Fatalf("it ended with %v, want a failure", err)
	}
	if status := exit.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGPIPE {
		ts.Fatalf("it ended with %v, want SIGPIPE", err)
	}
	if stderr.Len() > 0 {
		ts.Fatalf("it said: %s", &stderr)
	}
}

// environment is what commands of the script need of its environment.
func environment(ts *testscript.TestScript) []string {
	env := os.Environ()
	for _, name := range []string{"PATH", "WORK", socketEnv, "COLUMNS"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	return env
}

// leaveSocket leaves a socket that nobody listens on: socket PATH.
func leaveSocket(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: socket PATH")
	}
	listener, err := net.Listen("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	ts.Check(listener.Close())
}

// Help is part of what a command is: each has an example, and fits a terminal.
func TestHelp(t *testing.T) {
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for text, what := range map[string]string{cmd.Short: "short text", cmd.Long: "long text", cmd.Example: "example"} {
			if text == "" {
				t.Errorf("%s has no %s", cmd.CommandPath(), what)
			}
		}
		for line := range strings.Lines(cmd.Long + "\n" + cmd.Example + "\n" + cmd.UsageString()) {
			if columns(strings.TrimSuffix(line, "\n")) > defaultWidth {
				t.Errorf("the help of %s is wider than %d columns: %s", cmd.CommandPath(), defaultWidth, line)
			}
		}
		for _, child := range cmd.Commands() {
			visit(child)
		}
	}
	visit(newCommand(&options{}))
	visit(asPlugin())
}

// asPlugin is the command tree of `kubectl weaveguard`.
func asPlugin() *cobra.Command {
	o := &options{}
	cmd := newCommand(o)
	o.asPlugin(cmd)
	return cmd
}

// The command stays small, and works where there is no Kubernetes.
func TestDependencies(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatalf("listing what the command links: %v", err)
	}
	if !strings.Contains(string(out), "weaveguard/mesh/api\n") {
		t.Fatalf("the list lacks mesh/api:\n%s", out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.HasPrefix(line, "sigs.k8s.io/yaml") {
			continue // a codec
		}
		for _, forbidden := range []string{"k8s.io/", "sigs.k8s.io/", "hashicorp/memberlist"} {
			if strings.Contains(line, forbidden) {
				t.Errorf("the command links %s", strings.TrimSpace(line))
			}
		}
	}
}

// kubectl exec runs the command in an image that has nothing else.
func TestRunsAlone(t *testing.T) {
	root := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", filepath.Join(root, "weaveguard"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building it: %v: %s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), "/weaveguard", "version")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	cmd.Env, cmd.Dir = []string{}, "/"
	out, err := cmd.CombinedOutput()
	if want := "client  devel\n"; err != nil || !strings.HasPrefix(string(out), want) {
		t.Errorf("in an empty root (this test needs root): %v, %q; want %q", err, out, want)
	}
}

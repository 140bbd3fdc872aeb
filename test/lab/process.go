package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout is how long Stop lets a process go on after SIGTERM.
const stopTimeout = 10 * time.Second

// logTail is how many bytes of each log a failed test shows.
const logTail = 16 << 10

// Place is where processes run: a host, a NetNS of a host, or the fabric.
type Place struct {
	lab  *Lab
	name string

	mu sync.Mutex
	ns *namespaces // nil while the host is off
}

// Location is anything that is a Place.
type Location interface{ location() *Place }

func (p *Place) location() *Place { return p }

// String is the place's name, for messages.
func (p *Place) String() string { return p.name }

func (p *Place) setNamespaces(ns *namespaces) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ns = ns
}

func (p *Place) namespaces() (*namespaces, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ns == nil {
		return nil, fmt.Errorf("%s is off", p.name)
	}
	return p.ns, nil
}

// Command says what to run.
type Command struct {
	Name   string    // for messages and the log; by default from Path or Helper
	Path   string    // the program, as the host sees it; without a slash, by PATH
	Helper string    // instead of Path: a helper given to Main
	Args   []string  // without the program's name
	Env    []string  // "KEY=value", beside the environment of the test
	Dir    string    // working directory; "" means /
	Stdin  io.Reader // nil means nothing to read

	// Carrier: it carries or counts packets, and goes before other processes. On a busy machine it would else lose some
	// for want of processor time, which looks like a lossy network.
	Carrier bool
}

// carrierNice is the niceness (setpriority(2)) of carriers.
const carrierNice = -15

func (c Command) label() string {
	switch {
	case c.Name != "":
		return c.Name
	case c.Helper != "":
		return c.Helper
	}
	return filepath.Base(c.Path)
}

// cmd makes an exec.Cmd that is killed when ctx ends.
func (c Command) cmd(ctx context.Context) (*exec.Cmd, error) {
	path := c.Path
	if c.Helper != "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("finding this program: %w", err)
		}
		path = self
	}
	cmd := exec.CommandContext(ctx, path, c.Args...)
	if c.Helper != "" {
		cmd.Args = helperArgs(c.Helper, c.Args)
	}
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Dir = c.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Stdin = c.Stdin
	// A daemon that a command leaves behind may keep its output open.
	cmd.WaitDelay = 2 * time.Second
	return cmd, nil
}

func (p *Place) start(c Command, cmd *exec.Cmd) error {
	ns, err := p.namespaces()
	if err != nil {
		return err
	}
	return ns.do(func() error {
		if c.Carrier { // of this thread, which the process inherits it from, and which ends with it
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, carrierNice); err != nil {
				return fmt.Errorf("letting it go before other processes: %w", err)
			}
		}
		return cmd.Start()
	})
}

// Run runs a command to its end and returns its standard output. The error of
// a command that failed holds what it printed, and wraps *exec.ExitError.
func (p *Place) Run(ctx context.Context, path string, args ...string) (string, error) {
	return p.RunCommand(ctx, Command{Path: path, Args: args})
}

// RunCommand is Run with all that a Command can say.
func (p *Place) RunCommand(ctx context.Context, c Command) (string, error) {
	cmd, err := c.cmd(ctx)
	if err != nil {
		return "", err
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = p.start(c, cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		said := tail(append(stdout.Bytes(), stderr.Bytes()...), logTail)
		return stdout.String(), fmt.Errorf("running %s %s on %s: %w\n%s", c.label(), strings.Join(c.Args, " "), p, err, said)
	}
	return stdout.String(), nil
}

// MustRun is Run that fails the test.
func (p *Place) MustRun(t testing.TB, path string, args ...string) string {
	t.Helper()
	out, err := p.Run(t.Context(), path, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Process is a process that Start began.
type Process struct {
	Name string // PLACE/NAME

	cmd  *exec.Cmd
	log  string
	done chan struct{}
	err  error // of Wait; valid once done is closed
}

// Start begins a command. It ends with ctx, with its host, or with the lab.
// What it prints goes to a log file.
func (p *Place) Start(ctx context.Context, c Command) (*Process, error) {
	cmd, err := c.cmd(ctx)
	if err != nil {
		return nil, err
	}
	return p.background(c, cmd)
}

// MustStart is Start that fails the test. The process ends with the lab.
func (p *Place) MustStart(t testing.TB, c Command) *Process {
	t.Helper()
	// The test's context ends before its cleanups, and a process may be needed
	// until then.
	proc, err := p.Start(context.WithoutCancel(t.Context()), c)
	if err != nil {
		t.Fatal(err)
	}
	return proc
}

// background starts cmd with its output, where it has none, in a log.
func (p *Place) background(c Command, cmd *exec.Cmd) (*Process, error) {
	file := strings.ReplaceAll(p.name+"."+c.label(), "/", "_")
	log, err := os.CreateTemp(p.lab.dir.Path, file+".*.log")
	if err != nil {
		return nil, fmt.Errorf("making a log for %s: %w", c.label(), err)
	}
	defer log.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = log
	}
	cmd.Stderr = log
	proc := &Process{Name: p.name + "/" + c.label(), cmd: cmd, log: log.Name(), done: make(chan struct{})}
	if err := p.start(c, cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", proc.Name, err)
	}
	go func() {
		defer close(proc.done)
		proc.err = cmd.Wait()
	}()
	p.lab.mu.Lock()
	defer p.lab.mu.Unlock()
	p.lab.processes = append(p.lab.processes, proc)
	return proc, nil
}

// PID is the process id as this process sees it, not as the host does.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the end. The error is nil for exit status 0, and wraps
// *exec.ExitError when the process ended in another way.
func (p *Process) Wait() error {
	<-p.done
	if p.err != nil {
		return fmt.Errorf("%s ended: %w", p.Name, p.err)
	}
	return nil
}

// Signal sends a signal. A process that has ended gets none, without error.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("sending %v to %s: %w", s, p.Name, err)
	}
	return nil
}

// Kill ends the process with SIGKILL, and waits. Its children live on.
func (p *Process) Kill() error {
	err := p.Signal(unix.SIGKILL)
	if err == nil {
		<-p.done
	}
	return err
}

// Stop asks the process to end with SIGTERM, and waits. The error is that of
// Wait, or says that it had to be killed after 10 s.
func (p *Process) Stop() error {
	if err := p.Signal(unix.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return p.Wait()
	case <-time.After(stopTimeout):
		return errors.Join(fmt.Errorf("%s didn't end within %v of SIGTERM", p.Name, stopTimeout), p.Kill())
	}
}

// Log is what the process has printed so far.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return fmt.Sprintf("(reading the log of %s: %v)", p.Name, err)
	}
	return string(b)
}

// Logs is what all processes that Start began have printed so far, by name.
func (l *Lab) Logs() map[string]string {
	l.mu.Lock()
	processes := l.processes
	l.mu.Unlock()
	logs := map[string]string{}
	for _, p := range processes {
		logs[p.Name] += p.Log()
	}
	return logs
}

// showLogs writes the ends of all logs to the test's.
func (l *Lab) showLogs(t testing.TB) {
	l.mu.Lock()
	processes := l.processes
	l.mu.Unlock()
	for _, p := range processes {
		if log := p.Log(); log != "" {
			t.Logf("--- log of %s\n%s", p.Name, tail([]byte(log), logTail))
		}
	}
	if b, err := os.ReadFile(filepath.Join(l.dir.Path, "init.log")); err == nil && len(b) > 0 {
		t.Logf("--- log of the init processes\n%s", tail(b, logTail))
	}
}

// tail is the last n bytes, from a line's start when it cut.
func tail(b []byte, n int) []byte {
	if len(b) <= n {
		return b
	}
	b = b[len(b)-n:]
	if i := bytes.IndexByte(b, '\n'); i >= 0 {
		b = b[i+1:]
	}
	return append([]byte("…\n"), b...)
}

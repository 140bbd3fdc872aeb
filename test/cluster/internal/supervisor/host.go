package supervisor

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/cluster/internal/cgroups"
	"github.com/weaveguard/weaveguard/test/cluster/internal/host"
)

// Arguments of the binary that a supervisor runs in, for a host's two processes.
const (
	EnterCommand = "host-enter"
	RunCommand   = "host-run"
)

var errEnding = errors.New("the cluster is being taken down")

// hostProcess is a running host.
type hostProcess struct {
	name    string
	pid     int // of the host's process 1, as the machine sees it
	enter   *exec.Cmd
	command io.WriteCloser // standard input of process 1
	says    *bufio.Scanner // its standard output
	log     *os.File
	dead    chan struct{} // closed when every process of the host has ended
}

// boot starts a host. Between the making of its namespaces and the start of its services, wire
// gives it its links, by the PID of its first process.
func (s *Supervisor) boot(ctx context.Context, info api.Host, spec api.HostSpec, wire func(pid int) error) error {
	h, err := s.launch(spec)
	if err != nil {
		return err
	}
	if err := h.goOn(ctx, wire); err != nil {
		return errors.Join(fmt.Errorf("boot host %s (see %s): %w", info.Name, h.log.Name(), err), s.halt(info))
	}
	info.PID = h.pid
	s.log.Info("host is up", "host", info.Name, "pid", info.PID, "addresses", info.Addresses)
	return s.setHost(info)
}

// launch starts a host's processes, unless the cluster is ending: what is made before the end is
// also removed then.
func (s *Supervisor) launch(spec api.HostSpec) (*hostProcess, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return nil, errEnding
	}
	if s.hosts[spec.Name] != nil {
		return nil, fmt.Errorf("host %s is up already", spec.Name)
	}
	if err := s.joinGroups(&spec); err != nil {
		return nil, err
	}
	h, err := s.enter(spec)
	if err != nil {
		return nil, err
	}
	s.hosts[spec.Name] = h
	return h, nil
}

// joinGroups makes the host's cgroups and tells the host about them.
func (s *Supervisor) joinGroups(spec *api.HostSpec) error {
	for _, h := range s.groups {
		name := filepath.Join(s.spec.Group(), spec.Name)
		if err := h.Create(name); err != nil {
			return err
		}
		spec.Join = append(spec.Join, h.Dir(name))
		if h.Unified {
			waiting := filepath.Join(s.spec.Group(), "waiting")
			if err := h.Create(waiting); err != nil {
				return err
			}
			spec.JoinUnified = append(spec.JoinUnified, h.Dir(name))
			spec.Leave = append(spec.Leave, h.Dir(waiting))
		}
	}
	return nil
}

// removeGroups removes a host's cgroups: a kubelet that finds those of an earlier life asks the
// container runtime about each, for seconds.
func (s *Supervisor) removeGroups(host string) error {
	ctx, cancel := context.WithTimeout(context.Background(), removalTimeout)
	defer cancel()
	for _, h := range s.groups {
		if err := cgroups.Remove(ctx, h.Dir(filepath.Join(s.spec.Group(), host))); err != nil {
			return err
		}
	}
	return nil
}

func (s *Supervisor) enter(spec api.HostSpec) (*hostProcess, error) {
	fail := func(err error) (*hostProcess, error) {
		return nil, fmt.Errorf("start host %s: %w", spec.Name, err)
	}
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return fail(err)
	}
	file := filepath.Join(s.dir, api.HostDir, spec.Name+".json")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fail(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return fail(err)
	}
	h := &hostProcess{name: spec.Name, dead: make(chan struct{})}
	logFile := api.HostLog(s.dir, spec.Name, "host")
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return fail(err)
	}
	if h.log, err = os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return fail(err)
	}
	h.enter = exec.Command("/proc/self/exe", EnterCommand, file)
	h.enter.Stderr = h.log
	h.enter.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if h.command, err = h.enter.StdinPipe(); err != nil {
		return fail(err)
	}
	output, err := h.enter.StdoutPipe()
	if err != nil {
		return fail(err)
	}
	h.says = bufio.NewScanner(output)
	if err := s.spawn.start(h.enter); err != nil {
		return fail(err)
	}
	go func() {
		// Not Cmd.Wait: that would close the pipe under the reader in goOn.
		_, _ = h.enter.Process.Wait()
		close(h.dead)
	}()
	return h, nil
}

// goOn takes a host from its namespaces to its services.
func (h *hostProcess) goOn(ctx context.Context, wire func(pid int) error) error {
	line, err := h.hear(ctx, host.SaysPID)
	if err != nil {
		return err
	}
	if h.pid, err = strconv.Atoi(line); err != nil {
		return fmt.Errorf("read the PID of the host: %w", err)
	}
	if err := wire(h.pid); err != nil {
		return err
	}
	if err := h.tell(""); err != nil {
		return err
	}
	_, err = h.hear(ctx, host.SaysReady)
	return err
}

// hear returns what follows the prefix on the next line.
func (h *hostProcess) hear(ctx context.Context, prefix string) (string, error) {
	lines := make(chan string, 1)
	go func() { // ends with the line, or with the host
		if h.says.Scan() {
			lines <- h.says.Text()
		}
		close(lines)
	}()
	select {
	case line := <-lines:
		rest, ok := strings.CutPrefix(line, prefix)
		if !ok {
			return "", fmt.Errorf("first process said %q", line)
		}
		return rest, nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (h *hostProcess) tell(line string) error {
	if _, err := fmt.Fprintln(h.command, line); err != nil {
		return fmt.Errorf("command the first process of host %s: %w", h.name, err)
	}
	return nil
}

// kill ends every process of the host, as a power cut does, and waits until they are gone.
func (h *hostProcess) kill() error {
	select {
	case <-h.dead:
	default:
		// The kernel ends a PID namespace with its first process, and that can't be waited
		// for before all others are gone (pid_namespaces(7)).
		victim := h.pid
		if victim == 0 {
			victim = h.enter.Process.Pid
		}
		if err := syscall.Kill(victim, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("kill host %s: %w", h.name, err)
		}
		<-h.dead
	}
	return errors.Join(h.command.Close(), h.log.Close())
}

// halt kills a host and unplugs it. It stays in the state, as one that is down.
func (s *Supervisor) halt(info api.Host) error {
	s.mu.Lock()
	h := s.hosts[info.Name]
	delete(s.hosts, info.Name)
	s.mu.Unlock()
	if h == nil {
		return fmt.Errorf("host %s is down already", info.Name)
	}
	if err := h.kill(); err != nil {
		return err
	}
	if err := s.unplug(info.Name); err != nil {
		return err
	}
	if err := s.removeGroups(info.Name); err != nil {
		return err
	}
	info.PID = 0
	s.log.Info("host is down", "host", info.Name)
	return s.setHost(info)
}

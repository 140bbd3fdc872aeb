package host

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"golang.org/x/sys/unix"
)

// restartDelay is how long a service that ended stays down.
const restartDelay = time.Second

// Run is the host from the inside: process 1 of its PID namespace. It waits for a line on standard
// input (by then the supervisor has made eth0), sets the host up, starts the services, says that it
// is ready, and reaps children until standard input ends.
func Run(specFile string) error {
	spec, err := readSpec(specFile)
	if err != nil {
		return err
	}
	input := bufio.NewReader(os.Stdin)
	if _, err := input.ReadString('\n'); err != nil {
		return fmt.Errorf("wait for the supervisor: %w", err)
	}
	if err := setUp(spec); err != nil {
		fmt.Printf("%s%v\n", SaysError, err)
		return err
	}
	// Each service is in this channel at most once: at first on command, then after its end.
	first := firstProcess{running: map[int]api.Service{}, due: make(chan api.Service, len(spec.Services))}
	for _, s := range spec.Services {
		if s.OnCommand {
			continue
		}
		if err := first.start(s); err != nil {
			fmt.Printf("%s%v\n", SaysError, err)
			return err
		}
	}
	fmt.Println(SaysReady)

	go obey(input, spec.Services, first.due)
	return first.reap()
}

// obey reads commands. Standard input ends when the supervisor does; then process 1 ends, and the
// kernel ends every other process of the host.
func obey(input *bufio.Reader, services []api.Service, due chan<- api.Service) {
	for {
		line, err := input.ReadString('\n')
		if err != nil {
			os.Exit(0)
		}
		name, isStart := strings.CutPrefix(strings.TrimSpace(line), api.StartCommand)
		for _, s := range services {
			if isStart && s.OnCommand && s.Name == name {
				due <- s
			}
		}
	}
}

// firstProcess is owned by the goroutine that reaps.
type firstProcess struct {
	running map[int]api.Service
	due     chan api.Service
}

func (p *firstProcess) start(s api.Service) error {
	if err := os.MkdirAll(filepath.Dir(s.Log), 0o755); err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	log, err := os.OpenFile(s.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	defer null.Close()
	// Not os/exec: the reaper below collects every child, these too.
	pid, err := syscall.ForkExec(s.Args[0], s.Args, &syscall.ProcAttr{
		Dir:   "/",
		Env:   []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"},
		Files: []uintptr{null.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return fmt.Errorf("start %s (%s): %w", s.Name, s.Args[0], err)
	}
	p.running[pid] = s
	return nil
}

// reap collects children, the orphans of others too, and starts services again that ended.
func (p *firstProcess) reap() error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil && !errors.Is(err, unix.ECHILD):
			return fmt.Errorf("wait for children: %w", err)
		case pid > 0:
			p.ended(pid, status)
			continue
		}
		select {
		case s := <-p.due:
			if err := p.start(s); err != nil {
				return err
			}
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (p *firstProcess) ended(pid int, status unix.WaitStatus) {
	s, ours := p.running[pid]
	if !ours {
		return
	}
	delete(p.running, pid)
	fmt.Fprintf(os.Stderr, "%s: %s ended (exit %d, signal %d), starting it again in %v\n",
		time.Now().Format(time.RFC3339), s.Name, status.ExitStatus(), status.Signal(), restartDelay)
	time.AfterFunc(restartDelay, func() { p.due <- s })
}

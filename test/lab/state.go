package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"

	"github.com/weaveguard/weaveguard/test/internal/owned"
)

// State describes a running lab to other processes of the machine.
type State struct {
	OwnerPID int
	Dir      string
	Fabric   HostState
	Hosts    []HostState
}

// HostState describes a host, or the fabric, which has no addresses.
type HostState struct {
	Name    string
	InitPID int // for StartIn
	Addr4   netip.Addr
	Addr6   netip.Addr
}

// State describes the lab as it is now.
func (l *Lab) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := State{OwnerPID: os.Getpid(), Dir: l.dir.Path, Fabric: HostState{Name: fabricBridge, InitPID: l.machine.pid}}
	for _, h := range l.Hosts {
		s.Hosts = append(s.Hosts, HostState{Name: h.Name, InitPID: h.InitPID(), Addr4: h.Addr4, Addr6: h.Addr6})
	}
	return s
}

// Find is the host of that name, or the fabric.
func (s State) Find(name string) (HostState, error) {
	for _, h := range append([]HostState{s.Fabric}, s.Hosts...) {
		if h.Name == name {
			return h, nil
		}
	}
	return HostState{}, fmt.Errorf("no host %q in the lab: it has %d, from h1, and %s", name, len(s.Hosts), s.Fabric.Name)
}

// statePath is where the lab of a name is described.
func statePath(name string) (string, error) {
	if name == "" || name != filepath.Base(name) || name == "." || name == ".." {
		return "", fmt.Errorf("lab name %q: use a plain word", name)
	}
	return filepath.Join(os.TempDir(), "weaveguard-lab-"+name+".json"), nil
}

// ErrNoLab means that no lab of a name is up.
var ErrNoLab = errors.New("no such lab is up")

// Publish lets other processes find the lab by a name, until withdraw is
// called. It fails when a lab of that name is up.
func (l *Lab) Publish(name string) (withdraw func() error, err error) {
	path, err := statePath(name)
	if err != nil {
		return nil, err
	}
	if old, err := Published(name); err == nil {
		return nil, fmt.Errorf("a lab %q is up already, of process %d: take it down first", name, old.OwnerPID)
	} else if !errors.Is(err, ErrNoLab) {
		return nil, err
	}
	b, err := json.MarshalIndent(l.State(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("describing the lab: %w", err)
	}
	// In a directory where all may write, follow nobody's link.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("describing the lab: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("describing the lab: %w", err), os.Remove(path))
	}
	return func() error { return os.Remove(path) }, nil
}

// Published finds a lab by the name it was published under. The error is
// ErrNoLab when there is none, or its owner is dead.
func Published(name string) (State, error) {
	path, err := statePath(name)
	if err != nil {
		return State{}, err
	}
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return State{}, ErrNoLab
	}
	if err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
			return State{}, fmt.Errorf("the description of the lab in %s is another user's: remove it, or use another name", path)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return State{}, fmt.Errorf("reading the description of the lab: %w", err)
	}
	var s State
	if err := json.Unmarshal(b, &s); err != nil {
		return State{}, fmt.Errorf("reading the description of the lab in %s: %w (remove it if no lab is up)", path, err)
	}
	// The owner holds the lock of its directory for as long as it lives.
	alive, err := owned.Alive(s.Dir)
	if err != nil {
		return State{}, err
	}
	if !alive {
		return State{}, errors.Join(ErrNoLab, os.Remove(path))
	}
	return s, nil
}

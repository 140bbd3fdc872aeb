// Package supervisor owns the processes of one test cluster: it starts hosts, wires them to the
// fabric, and ends and removes everything that it made, on request or when its owner dies. It
// speaks no Kubernetes; a client does that through the API server.
package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/cluster/internal/cgroups"
	"github.com/weaveguard/weaveguard/test/cluster/internal/pki"
	"golang.org/x/sync/errgroup"
)

// removalTimeout bounds how long the last processes may take to leave their cgroups.
const removalTimeout = 20 * time.Second

// Supervisor is one cluster. Run makes it and ends it.
type Supervisor struct {
	dir    string
	spec   api.Spec
	log    *slog.Logger
	groups []cgroups.Hierarchy
	ca     *pki.Authority
	spawn  *spawner
	quit   chan struct{} // a request for the end

	mu    sync.Mutex
	state api.State
	hosts map[string]*hostProcess
	made  []string // directories of cgroups
	ended bool
}

// Run supervises the cluster whose specification is in dir until ctx ends, a client asks for it,
// or (unless the cluster is detached) owner does, and then leaves nothing of it.
func Run(ctx context.Context, dir string, owner io.Reader, log *slog.Logger) error {
	s := &Supervisor{dir: dir, log: log, hosts: map[string]*hostProcess{}, quit: make(chan struct{}, 1)}
	if err := s.read(); err != nil {
		return err
	}
	spawn := newSpawner()
	defer spawn.close()
	s.spawn = spawn

	listener, err := net.Listen("unix", filepath.Join(dir, api.SocketFile))
	if err != nil {
		return fmt.Errorf("listen for clients: %w", err)
	}
	server := s.server()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()

	orphaned := make(chan struct{})
	if !s.spec.Detached {
		go func() {
			_, _ = io.Copy(io.Discard, owner)
			close(orphaned)
		}()
	}
	select {
	case <-ctx.Done():
		log.Info("ending: told to by a signal")
	case <-orphaned:
		log.Info("ending: the owner of the cluster is gone")
	case <-s.quit:
		log.Info("ending: told to by a client")
	case err = <-served:
		log.Error("ending: can't serve clients", "err", err)
	}
	return errors.Join(s.tearDown(), server.Close())
}

func (s *Supervisor) read() error {
	data, err := os.ReadFile(filepath.Join(s.dir, api.SpecFile))
	if err != nil {
		return fmt.Errorf("read the cluster's specification: %w", err)
	}
	if err := json.Unmarshal(data, &s.spec); err != nil {
		return fmt.Errorf("read the cluster's specification: %w", err)
	}
	if s.groups, err = cgroups.Mounted(); err != nil {
		return err
	}
	s.state = api.State{Spec: s.spec, SupervisorPID: os.Getpid()}
	return nil
}

// start brings up the fabric, the host outside, and the control plane. Nodes come one by one.
func (s *Supervisor) start(ctx context.Context, say func(string)) error {
	var err error
	if s.ca, err = s.issueCertificates(); err != nil {
		return err
	}
	if err := s.makeGroups(); err != nil {
		return err
	}
	if err := s.startFabric(ctx); err != nil {
		return err
	}
	say("fabric is up")
	if err := s.startOutside(ctx); err != nil {
		return err
	}
	if err := s.startControlPlane(ctx); err != nil {
		return err
	}
	if err := s.serveAPIServer(); err != nil {
		return err
	}
	say("control plane is started")
	return nil
}

// makeGroups makes the cluster's cgroup in each hierarchy, and first writes down where.
func (s *Supervisor) makeGroups() error {
	var made []string
	for _, h := range s.groups {
		made = append(made, h.Dir(s.spec.Group()))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return errEnding
	}
	s.made = made
	data, err := json.Marshal(made)
	if err != nil {
		return fmt.Errorf("write down the cgroups: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, api.CgroupsFile), data, 0o644); err != nil {
		return fmt.Errorf("write down the cgroups: %w", err)
	}
	for _, h := range s.groups {
		if err := h.Create(s.spec.Group()); err != nil {
			return err
		}
	}
	return nil
}

// address is the underlay's nth.
func address(prefix netip.Prefix, n int) netip.Addr {
	a := prefix.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// addresses are those at a place of each prefix.
func addresses(prefixes []netip.Prefix, n int) []netip.Addr {
	all := make([]netip.Addr, 0, len(prefixes))
	for _, p := range prefixes {
		all = append(all, address(p, n))
	}
	return all
}

// list puts commas between values, as Kubernetes' flags want them.
func list[T fmt.Stringer](values []T) string {
	words := make([]string, 0, len(values))
	for _, v := range values {
		words = append(words, v.String())
	}
	return strings.Join(words, ",")
}

// setHost records a host in the state, on disk too.
func (s *Supervisor) setHost(host api.Host) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.state.Hosts {
		if s.state.Hosts[i].Name == host.Name {
			s.state.Hosts[i] = host
			return s.writeState()
		}
	}
	s.state.Hosts = append(s.state.Hosts, host)
	return s.writeState()
}

func (s *Supervisor) host(name string) (api.Host, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Host(name)
}

// snapshot is a copy of the state that nobody changes.
func (s *Supervisor) snapshot() api.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	state := s.state
	state.Hosts = append([]api.Host(nil), s.state.Hosts...)
	return state
}

// writeState needs the lock.
func (s *Supervisor) writeState() error {
	data, err := json.MarshalIndent(s.state, "", "  ")
	if err != nil {
		return fmt.Errorf("write the cluster's state: %w", err)
	}
	file := filepath.Join(s.dir, api.StateFile)
	if err := os.WriteFile(file+".new", data, 0o644); err != nil {
		return fmt.Errorf("write the cluster's state: %w", err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return fmt.Errorf("write the cluster's state: %w", err)
	}
	return nil
}

// tearDown ends every host, and removes the cgroups and the directory.
func (s *Supervisor) tearDown() error {
	s.mu.Lock()
	s.ended = true // no host starts from here on
	hosts := make([]*hostProcess, 0, len(s.hosts))
	for _, h := range s.hosts {
		hosts = append(hosts, h)
	}
	made := s.made
	s.mu.Unlock()

	var group errgroup.Group
	for _, h := range hosts {
		group.Go(h.kill)
	}
	err := group.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), removalTimeout)
	defer cancel()
	for _, dir := range made {
		err = errors.Join(err, cgroups.Remove(ctx, dir))
	}
	if err != nil {
		return fmt.Errorf("tear the cluster down: %w", err)
	}
	if err := os.RemoveAll(s.dir); err != nil {
		return fmt.Errorf("tear the cluster down: %w", err)
	}
	return nil
}

package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// referencePlugins is where Debian's package containernetworking-plugins has them. Nodes have a
// copy in /opt/cni/bin, as those have that a distribution's packages set up.
const referencePlugins = "/usr/lib/cni"

// importTimeout bounds the start of containerd and the import of an image.
const importTimeout = 60 * time.Second

// addNode boots a new node with the next free number.
func (s *Supervisor) addNode(ctx context.Context) (*api.Host, error) {
	s.mu.Lock()
	number := 1
	for _, h := range s.state.Hosts {
		if h.Node {
			n, err := strconv.Atoi(h.Name[len("node-"):])
			if err == nil && n >= number {
				number = n + 1
			}
		}
	}
	info := api.Host{
		Name: "node-" + strconv.Itoa(number), Node: true,
		Addresses: addresses(s.spec.Underlay, firstNode+number-1),
	}
	s.state.Hosts = append(s.state.Hosts, info) // so that nobody else takes the number
	s.mu.Unlock()
	for i, network := range s.spec.Underlay {
		if !network.Contains(info.Addresses[i]) {
			return nil, fmt.Errorf("add a node: the underlay %s has no address left", network)
		}
	}
	if err := s.makeDisk(info); err != nil {
		return nil, err
	}
	if err := s.bootNode(ctx, info); err != nil {
		return nil, err
	}
	info, _ = s.host(info.Name)
	return &info, nil
}

// node finds a node that clients name.
func (s *Supervisor) node(name string) (api.Host, error) {
	info, ok := s.host(name)
	if !ok || !info.Node {
		return info, fmt.Errorf("there is no node %q in cluster %s", name, s.spec.Name)
	}
	return info, nil
}

func (s *Supervisor) disk(node, part string) string {
	return filepath.Join(s.dir, api.DiskDir, node, part)
}

// makeDisk makes what a node keeps over a restart.
func (s *Supervisor) makeDisk(info api.Host) error {
	for _, part := range []string{"etc/upper", "etc/work", "opt/cni/bin", "var-lib", "var-log", "kubernetes"} {
		if err := os.MkdirAll(s.disk(info.Name, part), 0o755); err != nil {
			return fmt.Errorf("make the disk of %s: %w", info.Name, err)
		}
	}
	if err := os.CopyFS(s.disk(info.Name, "opt/cni/bin"), os.DirFS(referencePlugins)); err != nil {
		return fmt.Errorf("copy the CNI reference plugins to %s: %w", info.Name, err)
	}
	return s.writeNodeFiles(info)
}

// bootNode boots a node that has a disk.
func (s *Supervisor) bootNode(ctx context.Context, info api.Host) error {
	spec := api.HostSpec{
		Name: info.Name,
		Etc:  s.disk(info.Name, "etc"),
		Binds: []api.Bind{
			{Source: s.disk(info.Name, "opt"), Target: "/opt"},
			{Source: s.disk(info.Name, "var-lib"), Target: "/var/lib"},
			{Source: s.disk(info.Name, "var-log"), Target: "/var/log"},
		},
		Contents:    kubeletSettings(),
		Directories: []string{"/etc/cni/net.d", "/run/lock"},
		Sysctls: map[string]string{
			"net/ipv4/ip_forward":                 "1",
			"net/ipv6/conf/all/forwarding":        "1",
			"net/bridge/bridge-nf-call-iptables":  "1",
			"net/bridge/bridge-nf-call-ip6tables": "1",
			"net/bridge/bridge-nf-call-arptables": "1",
		},
		Services: s.nodeServices(info),
	}
	if err := s.boot(ctx, info, spec, s.onUnderlay(info)); err != nil {
		return err
	}
	info, _ = s.host(info.Name)
	if err := s.importImages(ctx, info); err != nil {
		return err
	}
	s.mu.Lock()
	h := s.hosts[info.Name]
	s.mu.Unlock()
	if h == nil {
		return fmt.Errorf("boot node %s: it went down meanwhile", info.Name)
	}
	return h.tell(api.StartCommand + "kubelet")
}

// kubeletSettings are the settings of the whole machine that the kubelet insists on; it finds them
// as it wants them, and changes nothing.
func kubeletSettings() map[string]string {
	return map[string]string{
		"/proc/sys/vm/overcommit_memory":      "1\n",
		"/proc/sys/vm/panic_on_oom":           "0\n",
		"/proc/sys/kernel/panic":              "10\n",
		"/proc/sys/kernel/panic_on_oops":      "1\n",
		"/proc/sys/kernel/keys/root_maxkeys":  "1000000\n",
		"/proc/sys/kernel/keys/root_maxbytes": "25000000\n",
	}
}

func (s *Supervisor) nodeServices(info api.Host) []api.Service {
	file := func(name string) string { return s.disk(info.Name, filepath.Join("kubernetes", name)) }
	services := []api.Service{
		{Name: "containerd", Args: []string{"/usr/bin/containerd", "--config", file("containerd.toml")}},
		{Name: "kubelet", OnCommand: true, Args: []string{
			s.program("kubelet"), "--config=" + file("kubelet.yaml"), "--kubeconfig=" + file("kubelet.kubeconfig"),
			"--hostname-override=" + info.Name, "--node-ip=" + list(info.Addresses),
		}},
		{Name: "kube-proxy", Args: []string{
			s.program("kube-proxy"), "--config=" + file("kube-proxy.yaml"), "--hostname-override=" + info.Name,
		}},
	}
	for i := range services {
		services[i].Log = api.HostLog(s.dir, info.Name, services[i].Name)
	}
	return services
}

// removeNode halts a node, if it is up, and forgets it.
func (s *Supervisor) removeNode(info api.Host) error {
	if info.PID != 0 {
		if err := s.halt(info); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, h := range s.state.Hosts {
		if h.Name == info.Name {
			s.state.Hosts = append(s.state.Hosts[:i:i], s.state.Hosts[i+1:]...)
			break
		}
	}
	if err := os.RemoveAll(s.disk(info.Name, "")); err != nil {
		return fmt.Errorf("remove the disk of %s: %w", info.Name, err)
	}
	return s.writeState()
}

// loadImage takes a docker archive into every node that is up, and into those that come later.
func (s *Supervisor) loadImage(ctx context.Context, file string) error {
	dir := filepath.Join(s.dir, api.ImageDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("keep image %s: %w", file, err)
	}
	kept := filepath.Join(dir, filepath.Base(file))
	if err := copyFile(kept, file); err != nil {
		return fmt.Errorf("keep image %s: %w", file, err)
	}
	var group errgroup.Group
	for _, h := range s.snapshot().Hosts {
		if h.Node && h.PID != 0 {
			group.Go(func() error { return s.importImage(ctx, h, kept) })
		}
	}
	return group.Wait()
}

func copyFile(to, from string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

func (s *Supervisor) importImages(ctx context.Context, info api.Host) error {
	files, err := filepath.Glob(filepath.Join(s.dir, api.ImageDir, "*.tar"))
	if err != nil {
		return fmt.Errorf("list the cluster's images: %w", err)
	}
	for _, file := range files {
		if err := s.importImage(ctx, info, file); err != nil {
			return err
		}
	}
	return nil
}

// importImage imports a docker archive into a node's containerd, as soon as that listens.
func (s *Supervisor) importImage(ctx context.Context, info api.Host, file string) error {
	ctx, cancel := context.WithTimeout(ctx, importTimeout)
	defer cancel()
	socket := fmt.Sprintf("/proc/%d/root/run/containerd/containerd.sock", info.PID)
	for {
		if _, err := os.Stat(socket); err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("wait for containerd on %s: %w", info.Name, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for containerd on %s (see %s): %w",
				info.Name, api.HostLog(s.dir, info.Name, "containerd"), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	cmd := exec.CommandContext(ctx, "nsenter", "--target="+strconv.Itoa(info.PID), "--all", "--",
		"ctr", "--namespace=k8s.io", "images", "import", "--snapshotter="+snapshotter(s.dir), file)
	if output, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import %s on %s: %w: %s", file, info.Name, err, output)
	}
	return nil
}

// snapshotter is containerd's overlayfs, where the kernel has one on top of the disk's file system.
func snapshotter(dir string) string {
	var stat unix.Statfs_t
	if err := unix.Statfs(dir, &stat); err == nil && stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return "native"
	}
	return "overlayfs"
}

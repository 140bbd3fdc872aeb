// Package inspect looks at the host for package doctor: kernel, sockets, settings, firewalls of others and files. It changes
// nothing; what it tries, it tries in a network namespace of its own that is gone at once. What it can't look at it says.
package inspect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/doctor"
)

// Config says where to look. The zero value is this host.
type Config struct {
	Root    string // what all paths are below; "": /
	ConfDir string // of the container runtime; "": /etc/cni/net.d
	BinDir  string // likewise; "": /opt/cni/bin
}

// podEnv is set in every pod of Kubernetes.
const podEnv = "KUBERNETES_SERVICE_HOST"

// Host looks at the host, apart from its links, addresses and routes.
func Host(c Config) doctor.Host {
	if c.ConfDir == "" {
		c.ConfDir = "/etc/cni/net.d"
	}
	if c.BinDir == "" {
		c.BinDir = "/opt/cni/bin"
	}
	h := doctor.Host{Pod: os.Getenv(podEnv) != "", Kernel: release(), ConfDir: c.ConfDir}
	unseen := func(err error) {
		if err != nil {
			h.Unseen = append(h.Unseen, err.Error())
		}
	}
	var err error
	h.WireGuard, err = kernelWireGuard()
	unseen(err)
	h.TUN, err = c.tun(h.Pod)
	unseen(err)
	h.Rules, h.BridgeRules, err = tryRules()
	unseen(err)
	h.Sockets, err = sockets()
	unseen(err)
	h.Settings, err = c.settings()
	unseen(err)
	h.Chains, err = chains()
	unseen(err)
	unseen(c.legacyTables())
	h.Configs, err = c.configs()
	unseen(err)
	h.Files = c.files()
	if h.Pod {
		unseen(errors.New("files of other network plugins outside of " + c.ConfDir + " and " + c.BinDir + ": for those, run this on the node"))
	}
	return h
}

func (c Config) path(path string) string { return filepath.Join("/", c.Root, path) }

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "of an unknown release"
	}
	return unix.ByteSliceToString(name.Release[:])
}

// kernelWireGuard asks for WireGuard's netlink family, which has the kernel load the module if there is one.
func kernelWireGuard() (doctor.Answer, error) {
	_, err := netlink.GenlFamilyGet("wireguard")
	switch {
	case err == nil:
		return doctor.Yes, nil
	case errors.Is(err, unix.ENOENT):
		return doctor.No, nil
	}
	return doctor.Unknown, fmt.Errorf("whether the kernel has WireGuard: %w", err)
}

// tun looks for /dev/net/tun, which the agent's pod doesn't have where the node does.
func (c Config) tun(pod bool) (doctor.Answer, error) {
	info, err := os.Stat(c.path("/dev/net/tun"))
	switch {
	case err == nil && info.Mode()&fs.ModeCharDevice != 0:
		return doctor.Yes, nil
	case pod:
		return doctor.Unknown, errors.New("whether the node has /dev/net/tun: the agent's pod doesn't show it")
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return doctor.No, nil
	}
	return doctor.Unknown, fmt.Errorf("whether there is /dev/net/tun: %w", err)
}

// settings reads those kernel settings that doctor judges. One that isn't there is none.
func (c Config) settings() (map[string]string, error) {
	settings := map[string]string{}
	keys := []string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter",
		"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables", "net/bridge/bridge-nf-call-arptables",
	}
	for number := range contract.MaxDevices {
		keys = append(keys, "net/ipv4/conf/"+contract.DeviceName(number)+"/rp_filter")
	}
	var errs []error
	for _, key := range keys {
		value, err := os.ReadFile(c.path(filepath.Join("/proc/sys", key)))
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			continue
		}
		settings[key] = strings.TrimSpace(string(value))
	}
	return settings, errors.Join(errs...)
}

// legacyTables says that there are tables of the older iptables, which aren't read.
func (c Config) legacyTables() error {
	for file, program := range map[string]string{"/proc/net/ip_tables_names": "iptables-legacy", "/proc/net/ip6_tables_names": "ip6tables-legacy"} {
		names, err := os.ReadFile(c.path(file))
		if err == nil && slices.Contains(strings.Fields(string(names)), "filter") {
			return fmt.Errorf("rules of %s, which may drop what is forwarded: see `%s -S FORWARD`", program, program)
		}
	}
	return nil
}

// configs are the names of the files that a container runtime may take for network configurations, sorted.
func (c Config) configs() ([]string, error) {
	entries, err := os.ReadDir(c.path(c.ConfDir))
	if errors.Is(err, fs.ErrNotExist) {
		return []string{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("other network configurations: %w", err)
	}
	names := []string{}
	for _, entry := range entries {
		if !entry.IsDir() && slices.Contains([]string{".conf", ".conflist", ".json"}, filepath.Ext(entry.Name())) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// files are those of other network plugins that are there.
func (c Config) files() []string {
	var found []string
	for _, path := range append(contract.WeaveNetFiles(), "/run/flannel/subnet.env") {
		if _, err := os.Lstat(c.path(path)); err == nil {
			found = append(found, path)
		}
	}
	for _, dir := range []string{c.ConfDir, c.BinDir} {
		entries, _ := os.ReadDir(c.path(dir)) // configs has said why not
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			plugin := dir == c.BinDir && contract.IsWeaveNetPlugin(entry.Name())
			if plugin || dir == c.ConfDir && entry.Name() != contract.ConflistName && !slices.Contains(found, path) {
				found = append(found, path)
			}
		}
	}
	return found
}

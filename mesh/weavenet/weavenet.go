// Package weavenet removes what Weave Net leaves on a host: interfaces, rules of iptables, sets and files, each of them only by its
// name and its shape. It never does so while Weave Net's programs run or its pods are attached, and touches nothing of anybody
// else's. Rules of the kernel's older iptables, and Open vSwitch datapaths, it leaves, and says so.
package weavenet

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// Config says where Weave Net's files are.
type Config struct {
	ConfDir  string // of the container runtime's network configurations
	BinDir   string // of its plugins
	StateDir string // what Weave Net keeps: /var/lib/weave
}

// Done is what Clean did, in words.
type Done struct {
	Removed []string
	Left    []string // what it can't remove, and what to do about that
}

// controlPort is the TCP port on loopback by which Weave Net's daemon is asked.
const controlPort = 6784

// programs are Weave Net's that run on a host.
var programs = []string{"weaver", "weave-npc"}

// Clean removes what Weave Net left, and tells of it. It returns an error, and changes nothing, while Weave Net runs or has pods
// on this host; where something can't be removed, it goes on with the rest.
func Clean(ctx context.Context, c Config) (Done, error) {
	var done Done
	links, err := readLinks()
	if err != nil {
		return done, err
	}
	if err := idle(links); err != nil {
		return done, err
	}
	errs := []error{done.rules(), done.sets()}
	// Rules go first: some are about interfaces called weave, and so would be Weaveguard's.
	errs = append(errs, done.links(links), done.files(c))
	if err := ctx.Err(); err != nil {
		errs = append(errs, err)
	}
	return done, errors.Join(errs...)
}

func (d *Done) removed(format string, args ...any) {
	d.Removed = append(d.Removed, fmt.Sprintf(format, args...))
}
func (d *Done) left(format string, args ...any) {
	d.Left = append(d.Left, fmt.Sprintf(format, args...))
}

// idle says why nothing may be removed yet.
func idle(links []link) error {
	if name, err := running(); err != nil || name != "" {
		if err != nil {
			return fmt.Errorf("finding out whether Weave Net runs: %w", err)
		}
		return fmt.Errorf("this host runs Weave Net (%s): end it on this node first, with Kubernetes by %s as docs/weave-net.md has it, "+
			"without it by `weave stop`", name, contract.EndWeaveNet("NODE"))
	}
	var pods []string
	for _, l := range links {
		if contract.IsWeaveNetPod(l.HostLink) {
			pods = append(pods, l.Name)
		}
	}
	if len(pods) > 0 {
		return fmt.Errorf("%d pods or containers are still attached to Weave Net on this host (%s): drain the node, or end them, first", len(pods),
			strings.Join(pods[:min(len(pods), 3)], ", "))
	}
	return nil
}

// running names what of Weave Net runs; "": nothing does. Programs in other containers can't be seen from one, but whether
// somebody listens on the daemon's port can.
func running() (string, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return "", err
	}
	processes, err := proc.AllProcs()
	if err != nil {
		return "", err
	}
	for _, p := range processes {
		if name, err := p.Comm(); err == nil && slices.Contains(programs, name) {
			return fmt.Sprintf("the process %d is %s", p.PID, name), nil
		}
	}
	sockets, err := netlink.SocketDiagTCP(unix.AF_INET)
	if err != nil {
		return "", fmt.Errorf("listing TCP sockets: %w", err)
	}
	for _, s := range sockets {
		if s.State == netlink.TCP_LISTEN && s.ID.SourcePort == controlPort {
			return fmt.Sprintf("somebody listens on its TCP port %d", controlPort), nil
		}
	}
	return "", nil
}

// link is an interface, and how it is called by netlink.
type link struct {
	contract.HostLink
	netlink.Link
}

func readLinks() ([]link, error) {
	list, err := netlink.LinkList()
	for tries := 0; errors.Is(err, unix.EINTR) && tries < 20; tries++ {
		list, err = netlink.LinkList()
	}
	if err != nil {
		return nil, fmt.Errorf("reading the host's interfaces: %w", err)
	}
	var all []link
	for _, l := range list {
		kind := l.Type()
		if kind == "device" {
			kind = ""
		}
		a := l.Attrs()
		all = append(all, link{contract.HostLink{Name: a.Name, Kind: kind, Alias: a.Alias, MAC: a.HardwareAddr, MTU: a.MTU}, l})
	}
	return all, nil
}

// links removes the interfaces, by what they were when they were looked at: an agent may make a bridge of the same name at once.
func (d *Done) links(links []link) error {
	var errs []error
	for _, l := range links {
		if !contract.IsWeaveNetLink(l.HostLink) && !contract.IsWeaveNetBridge(l.HostLink) {
			continue
		}
		err := netlink.LinkDel(l.Link)
		switch {
		case err == nil:
			d.removed("the interface %s", l.HostLink.Name)
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.EINVAL) && l.Kind == "veth": // it went with its other end
			d.removed("the interface %s", l.HostLink.Name)
		case errors.Is(err, unix.EOPNOTSUPP):
			d.left("the Open vSwitch datapath %s, which does no harm: reboot, or `ovs-dpctl del-dp %s`", l.HostLink.Name, l.HostLink.Name)
		default:
			errs = append(errs, fmt.Errorf("removing the interface %s: %w", l.HostLink.Name, err))
		}
	}
	return errors.Join(errs...)
}

// files removes the configuration and the plugins, and what Weave Net keeps, if it is what it looks like.
func (d *Done) files(c Config) error {
	var errs []error
	remove := func(path string) {
		err := os.Remove(path)
		if err == nil {
			d.removed("%s", path)
		} else if !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	for _, name := range []string{"10-weave.conflist", "10-weave.conf"} {
		path := filepath.Join(c.ConfDir, name)
		text, err := os.ReadFile(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			errs = append(errs, err)
		case !strings.Contains(string(text), `"weave-net"`):
			d.left("%s, which isn't about the plugin weave-net: see what it is for", path)
		default:
			remove(path)
		}
	}
	plugins, err := os.ReadDir(c.BinDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, entry := range plugins {
		if contract.IsWeaveNetPlugin(entry.Name()) && !entry.IsDir() {
			remove(filepath.Join(c.BinDir, entry.Name()))
		}
	}
	kept, err := os.ReadDir(c.StateDir)
	if errors.Is(err, fs.ErrNotExist) {
		return errors.Join(errs...)
	}
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, entry := range kept {
		if strings.HasPrefix(entry.Name(), "weave") && strings.HasSuffix(entry.Name(), ".db") && entry.Type().IsRegular() {
			remove(filepath.Join(c.StateDir, entry.Name()))
		}
	}
	if err := os.Remove(c.StateDir); err != nil {
		d.left("%s, which has other files too: see what they are for", c.StateDir)
	} else {
		d.removed("%s", c.StateDir)
	}
	return errors.Join(errs...)
}

package lab

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/internal/owned"
)

// The underlay's subnets. Host N (from 1) has the N-th address of each.
var (
	Underlay4 = netip.MustParsePrefix("10.99.0.0/24")
	Underlay6 = netip.MustParsePrefix("fd99::/64")
)

// maxHosts keeps host numbers within Underlay4.
const maxHosts = 250

// fabricBridge is the bridge that joins the hosts, in the fabric's namespace.
const fabricBridge = "fabric"

// Options says what lab to make. The zero value is a lab without hosts, with
// addresses of both families.
type Options struct {
	Hosts  int  // how many hosts to start with; AddHost adds more
	MTU    int  // of the underlay in bytes; 0 means 1500
	V4Only bool // hosts have no IPv6 underlay address
	V6Only bool // hosts have no IPv4 underlay address
}

// Lab is a fabric with hosts on it.
type Lab struct {
	Hosts  []*Host
	Fabric *Place // the network between the hosts: a place to look, not a host

	options Options
	dir     *owned.Dir
	machine *machine
	links   *netlink.Handle // in the fabric's network namespace

	mu        sync.Mutex // guards what follows, and Hosts while it grows
	processes []*Process
	captures  []*Capture
	netns     []*NetNS
	blocking  bool // the fabric has the table for Block
}

// keepEnv names the environment variable with a directory that gets a copy of
// the logs and captures of a lab whose test has failed.
const keepEnv = "WEAVEGUARD_LAB_KEEP"

// New opens a lab for a test and closes it when the test ends. When the test
// has failed, it then shows the ends of the logs of all processes; all of them
// are kept in the directory that WEAVEGUARD_LAB_KEEP names, if it is set.
func New(t testing.TB, o Options) *Lab {
	t.Helper()
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatalf("opening the lab: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			l.showLogs(t)
			if err := l.keep(os.Getenv(keepEnv)); err != nil {
				t.Error(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Errorf("closing the lab: %v", err)
		}
	})
	return l
}

// Open makes a lab that lives until Close, or until this process ends.
func Open(ctx context.Context, o Options) (*Lab, error) {
	if o.V4Only && o.V6Only {
		return nil, errors.New("lab options V4Only and V6Only exclude each other: set one")
	}
	dir, err := owned.New("lab")
	if err != nil {
		return nil, err
	}
	l := &Lab{options: o, dir: dir}
	if err := l.open(ctx); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) open(ctx context.Context) error {
	log, err := os.Create(filepath.Join(l.dir.Path, "init.log"))
	if err != nil {
		return fmt.Errorf("making a log: %w", err)
	}
	defer log.Close()
	if l.machine, err = boot(&namespaces{}, log); err != nil {
		return err
	}
	l.Fabric = &Place{lab: l, name: fabricBridge, ns: l.machine.ns}
	if err := l.quietFabric(); err != nil {
		return err
	}
	l.links, err = handleIn(l.machine.ns)
	if err != nil {
		return err
	}
	if err := l.addBridge(fabricBridge); err != nil {
		return err
	}
	for range l.options.Hosts {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := l.AddHost(); err != nil {
			return err
		}
	}
	return nil
}

// Close ends all that runs in the lab and removes it.
func (l *Lab) Close() error {
	l.mu.Lock()
	hosts, captures, processes, netns := l.Hosts, l.captures, l.processes, l.netns
	l.mu.Unlock()
	for _, c := range captures {
		c.Stop()
	}
	for _, n := range netns {
		n.release()
	}
	for _, h := range hosts {
		h.PowerOff()
	}
	if l.machine != nil {
		l.machine.halt()
	}
	for _, p := range processes {
		<-p.done
	}
	if l.links != nil {
		l.links.Close()
	}
	return l.dir.Remove()
}

// keep copies the logs and captures to a directory under dir.
func (l *Lab) keep(dir string) error {
	if dir == "" {
		return nil
	}
	if err := os.CopyFS(filepath.Join(dir, filepath.Base(l.dir.Path)), os.DirFS(l.dir.Path)); err != nil {
		return fmt.Errorf("keeping the lab's logs: %w", err)
	}
	return nil
}

// Dir is the lab's directory in the temporary directory, with the logs. It
// goes when the lab is closed.
func (l *Lab) Dir() string { return l.dir.Path }

// KernelWireGuard reports whether the running kernel can make WireGuard
// devices.
func (l *Lab) KernelWireGuard() (bool, error) {
	probe := &netlink.Wireguard{LinkAttrs: netlink.LinkAttrs{Name: "wg-probe"}}
	err := l.links.LinkAdd(probe)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("making a WireGuard device to see whether the kernel can: %w", err)
	}
	if err := l.links.LinkDel(probe); err != nil {
		return false, fmt.Errorf("removing the probe device: %w", err)
	}
	return true, nil
}

func (l *Lab) mtu() int {
	if l.options.MTU == 0 {
		return 1500
	}
	return l.options.MTU
}

// addBridge adds a bridge to the fabric, up and without opinions: no spanning
// tree, no snooping.
func (l *Lab) addBridge(name string) error {
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := l.links.LinkAdd(bridge); err != nil {
		return fmt.Errorf("adding the fabric's bridge %s: %w", name, err)
	}
	if err := l.links.LinkSetUp(bridge); err != nil {
		return fmt.Errorf("setting the fabric's bridge %s up: %w", name, err)
	}
	return nil
}

// quietFabric keeps the fabric's own IP stack and firewall hooks out of the way.
func (l *Lab) quietFabric() error {
	return l.machine.ns.do(func() error {
		for key, value := range map[string]string{
			"net/ipv6/conf/all/disable_ipv6":      "1",
			"net/ipv6/conf/default/disable_ipv6":  "1",
			"net/ipv4/ip_forward":                 "0",
			"net/bridge/bridge-nf-call-iptables":  "0",
			"net/bridge/bridge-nf-call-ip6tables": "0",
			"net/bridge/bridge-nf-call-arptables": "0",
		} {
			err := os.WriteFile("/proc/sys/"+key, []byte(value), 0o644)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("setting %s in the fabric: %w", key, err)
			}
		}
		return nil
	})
}

// handleIn is a route netlink socket in a network namespace.
func handleIn(ns *namespaces) (*netlink.Handle, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(ns.net.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("opening netlink in a lab namespace: %w", err)
	}
	return h, nil
}

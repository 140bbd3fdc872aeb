package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
)

// Port is the name of a host's network interface on the fabric.
const Port = "eth0"

// Host is a pretend machine. It is a Place: processes run in it.
type Host struct {
	*Place
	Name  string     // hostname, and the name of its port in the fabric
	Addr4 netip.Addr // on the underlay; invalid with V6Only
	Addr6 netip.Addr // on the underlay; invalid with V4Only

	number  int
	machine *machine // nil while off
}

// AddHost adds a host, switched on and on the fabric with the others.
func (l *Lab) AddHost() (*Host, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	number := len(l.Hosts) + 1
	if number > maxHosts {
		return nil, fmt.Errorf("adding a host: a lab has at most %d", maxHosts)
	}
	name := fmt.Sprintf("h%d", number)
	h := &Host{Place: &Place{lab: l, name: name}, Name: name, number: number}
	if !l.options.V6Only {
		h.Addr4 = nth(Underlay4, number)
	}
	if !l.options.V4Only {
		h.Addr6 = nth(Underlay6, number)
	}
	if err := h.Boot(); err != nil {
		return nil, fmt.Errorf("adding host %s: %w", name, err)
	}
	l.Hosts = append(l.Hosts, h)
	return h, nil
}

// nth is the n-th address of a prefix, for n under 256.
func nth(p netip.Prefix, n int) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	b[len(b)-1] += byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Boot switches the host on. After a PowerOff it finds its /etc, /opt and
// /var/lib as it left them, and an empty /run; nothing runs in it.
func (h *Host) Boot() error {
	if h.machine != nil {
		return fmt.Errorf("booting %s: it is on", h.Name)
	}
	log, err := os.OpenFile(filepath.Join(h.lab.dir.Path, "init.log"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close()
	// Only the mounts come from the fabric: the rest is made new.
	m, err := boot(&namespaces{mnt: h.lab.machine.ns.mnt}, log, h.Name)
	if err != nil {
		return err
	}
	h.machine = m
	h.setNamespaces(m.ns)
	if err := h.plugIn(); err != nil {
		h.PowerOff()
		return err
	}
	return nil
}

// PowerOff ends all that runs in the host at once, as a power cut does. What
// was started in it ends with SIGKILL.
func (h *Host) PowerOff() {
	if h.machine == nil {
		return
	}
	h.setNamespaces(nil)
	h.machine.halt()
	h.machine = nil
	// The kernel removes the port some time after its namespace; a Boot that
	// follows at once needs the name.
	if port, err := h.lab.links.LinkByName(h.Name); err == nil {
		_ = h.lab.links.LinkDel(port) // it may have gone in between
	}
}

// InitPID is the process id, as this process sees it, of the host's process 1,
// or 0 when the host is off.
func (h *Host) InitPID() int {
	if h.machine == nil {
		return 0
	}
	return h.machine.pid
}

// plugIn makes the host's port and joins it to the fabric.
func (h *Host) plugIn() error {
	links := h.lab.links
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = h.Name, h.lab.mtu()
	err := links.LinkAdd(&netlink.Veth{
		LinkAttrs: attrs, PeerName: Port,
		PeerHardwareAddr: net.HardwareAddr{0x02, 0x57, 0x47, 0, 0, byte(h.number)},
		PeerNamespace:    netlink.NsFd(h.machine.ns.net.Fd()),
	})
	if err != nil {
		return fmt.Errorf("making the port of %s: %w", h.Name, err)
	}
	if err := h.join(fabricBridge); err != nil {
		return err
	}
	if err := h.lab.setUp(h.Name); err != nil {
		return err
	}
	return h.configure()
}

// configure gives the host its addresses.
func (h *Host) configure() error {
	links, err := handleIn(h.machine.ns)
	if err != nil {
		return err
	}
	defer links.Close()
	for _, name := range []string{"lo", Port} {
		link, err := links.LinkByName(name)
		if err != nil {
			return fmt.Errorf("finding %s of %s: %w", name, h.Name, err)
		}
		if err := links.LinkSetUp(link); err != nil {
			return fmt.Errorf("setting %s of %s up: %w", name, h.Name, err)
		}
		if name == Port {
			err = errors.Join(addAddr(links, link, h.Addr4, Underlay4), addAddr(links, link, h.Addr6, Underlay6))
		}
		if err != nil {
			return fmt.Errorf("giving %s its addresses: %w", h.Name, err)
		}
	}
	return nil
}

// addAddr adds a, unless it is invalid, at once usable.
func addAddr(links *netlink.Handle, link netlink.Link, a netip.Addr, subnet netip.Prefix) error {
	if !a.IsValid() {
		return nil
	}
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(subnet.Bits(), a.BitLen())}}
	if a.Is6() {
		addr.Flags = ifaFNoDAD
	}
	return links.AddrAdd(link, addr)
}

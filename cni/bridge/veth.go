package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/cni/port"
)

// Port is a sandbox's veth pair, as it should be.
type Port struct {
	HostIfName string           // the end on the node, a port of the bridge
	IfName     string           // the end in the sandbox
	MAC        net.HardwareAddr // of the end in the sandbox
	MTU        int              // bytes
	Addresses  []Address
	// Ranges are what the port leads to, and nil is everything. Then another port has the default route, and only what is sent
	// from an address of this one takes it for everything.
	Ranges []netip.Prefix
	// Reached are ranges that the port leads to as well where no other port does.
	Reached []netip.Prefix
}

// Address is one address of a sandbox, alone in its subnet (/32 or /128), and the gateway of its routes.
type Address struct {
	Address netip.Addr
	Gateway netip.Addr
}

// HostMAC is the MAC of the end on the node: the other end's with another first byte, so that it need not be asked for.
func (p Port) HostMAC() net.HardwareAddr { return HostMAC(p.MAC) }

// HostMAC is Port.HostMAC of an end in the sandbox with this MAC.
func HostMAC(mac net.HardwareAddr) net.HardwareAddr {
	mac = slices.Clone(mac)
	mac[0] ^= 0x04
	return mac
}

func (p Port) hasIPv6() bool {
	for _, a := range p.Addresses {
		if a.Address.Is6() {
			return true
		}
	}
	return false
}

// loopback is the index of lo in every network namespace.
const loopback = 1

// ErrInterfaceExists says that the sandbox has an interface of that name already.
var ErrInterfaceExists = errors.New("the sandbox already has the interface")

// Attach makes the veth pair between the bridge and the sandbox, with its address and routes, or leaves nothing.
// A pair of that name that a killed process left is replaced. Errors: ErrInterfaceExists, else the kernel's.
func (h *Host) Attach(bridgeIndex int, s *Sandbox, p Port) error {
	var inside *netlink.Handle
	err := s.do(func() (err error) {
		if inside, err = netlink.NewHandle(unix.NETLINK_ROUTE); err != nil {
			return fmt.Errorf("opening a netlink socket in the sandbox: %w", err)
		}
		return setSysctls(sandboxSysctls(p.hasIPv6()))
	})
	if inside != nil {
		defer inside.Close()
	}
	if err != nil {
		return err
	}
	veth, err := h.addPair(s, p)
	if err != nil {
		return err
	}
	if err = port.Connect(h.nl, veth, bridgeIndex, p.MAC); err == nil {
		err = configure(inside, p)
	}
	if err == nil {
		return nil
	}
	if undo := h.nl.LinkDel(veth); undo != nil {
		return fmt.Errorf("%w; and removing %s again: %w", err, p.HostIfName, undo)
	}
	return err
}

// addPair makes the pair, its end in the sandbox directly there: so its name can't collide on the node.
func (h *Host) addPair(s *Sandbox, p Port) (*netlink.Veth, error) {
	for replaced := false; ; replaced = true {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU, attrs.HardwareAddr, attrs.Flags = p.HostIfName, p.MTU, p.HostMAC(), net.FlagUp
		veth := netlink.NewVeth(attrs)
		veth.PeerName, veth.PeerMTU, veth.PeerHardwareAddr = p.IfName, uint32(p.MTU), p.MAC
		veth.PeerNamespace = netlink.NsFd(int(s.ns.Fd()))
		err := h.nl.LinkAdd(veth)
		if err == nil {
			return veth, nil
		}
		if !errors.Is(err, unix.EEXIST) || replaced {
			return nil, fmt.Errorf("making the veth pair %s: %w", p.HostIfName, err)
		}
		if _, err := h.nl.LinkByName(p.HostIfName); isNotFound(err) {
			return nil, fmt.Errorf("%w %s", ErrInterfaceExists, p.IfName)
		}
		if err := errors.Join(h.Detach(End{Name: p.HostIfName})...); err != nil {
			return nil, fmt.Errorf("replacing the veth pair %s that a killed process left: %w", p.HostIfName, err)
		}
	}
}

// configure sets up the sandbox's side.
func configure(inside *netlink.Handle, p Port) error {
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopback, Name: "lo"}}
	if err := inside.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting lo up in the sandbox: %w", err)
	}
	link, err := inside.LinkByName(p.IfName)
	if err != nil {
		return fmt.Errorf("looking up %s in the sandbox: %w", p.IfName, err)
	}
	for _, a := range p.Addresses {
		if err := inside.AddrAdd(link, address(single(a.Address))); err != nil {
			return fmt.Errorf("adding %s to %s in the sandbox: %w", a.Address, p.IfName, err)
		}
	}
	if err := inside.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting %s up in the sandbox: %w", p.IfName, err)
	}
	return addRoutes(inside, link.Attrs().Index, p)
}

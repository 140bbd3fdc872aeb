package guard

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// The sets, each of (bridge port, MAC, address).
const (
	// Pods4 and Pods6 say what a pod may send from, as frame and packet.
	Pods4 = "pods4"
	Pods6 = "pods6"
	// Neighbours6 says what a pod may send from, and answer for, in neighbour discovery: its own addresses, and the
	// link-local one that follows from its MAC, which the kernel probes from.
	Neighbours6 = "neighbours6"
)

// Port is a bridge port, with what the pod behind it may send from.
type Port struct {
	Name      string // of the interface on the node
	MAC       net.HardwareAddr
	Addresses []netip.Addr
}

// PortOf is the port of an attachment.
func PortOf(a store.Attachment) (Port, error) {
	mac, err := net.ParseMAC(a.MAC)
	if err != nil || len(mac) != 6 {
		return Port{}, fmt.Errorf("the attachment of %s has the MAC %q, which is none", a.ID, a.MAC)
	}
	return Port{Name: a.HostIfName, MAC: mac, Addresses: a.Addresses}, nil
}

// Table is the table as nftables names it.
func Table() *nftables.Table {
	return &nftables.Table{Name: contract.FirewallTable, Family: nftables.TableFamilyBridge}
}

// Names are the names of the sets.
func Names() []string { return []string{Pods4, Pods6, Neighbours6} }

// KeyType is what a set's elements are.
func KeyType(set string) nftables.SetDatatype {
	address := nftables.TypeIP6Addr
	if set == Pods4 {
		address = nftables.TypeIPAddr
	}
	return nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, address)
}

// Elements are a port's elements by set.
func (p Port) Elements() map[string][]nftables.SetElement {
	elements := map[string][]nftables.SetElement{}
	add := func(set string, address netip.Addr) {
		elements[set] = append(elements[set], nftables.SetElement{Key: p.key(address)})
	}
	for _, address := range p.Addresses {
		if address = address.Unmap(); address.Is4() {
			add(Pods4, address)
			continue
		}
		add(Pods6, address)
		add(Neighbours6, address)
	}
	if len(elements[Pods6]) > 0 {
		add(Neighbours6, linkLocal(p.MAC))
	}
	return elements
}

// key lays out an element: each part is padded to whole registers of 4 bytes.
func (p Port) key(address netip.Addr) []byte {
	key := make([]byte, unix.IFNAMSIZ+8)
	copy(key, p.Name)
	copy(key[unix.IFNAMSIZ:], p.MAC)
	return append(key, address.AsSlice()...)
}

// PortName is the name of the port in an element's key; "" when it has none.
func PortName(key []byte) string {
	if len(key) < unix.IFNAMSIZ {
		return ""
	}
	return unix.ByteSliceToString(key[:unix.IFNAMSIZ])
}

// PortExists reports whether the calling thread's network namespace has an interface of this name.
func PortExists(name string) bool {
	_, err := net.InterfaceByName(name)
	return err == nil
}

// linkLocal is the link-local address that follows from a MAC (RFC 4291, appendix A).
func linkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 0x02, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe,
		13: mac[3], 14: mac[4], 15: mac[5]})
}

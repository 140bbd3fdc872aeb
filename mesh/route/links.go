package route

import (
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// Kinds of links, as rtnetlink's IFLA_INFO_KIND names them.
const (
	kindBridge    = "bridge"
	kindTun       = "tun"
	kindWireGuard = "wireguard"
)

// links are the network interfaces at one moment.
type links struct {
	byName  map[string]netlink.Link
	byIndex map[int]netlink.Link
}

func readLinks() (links, error) {
	list, err := dump("links", netlink.LinkList)
	if err != nil {
		return links{}, err
	}
	l := links{byName: make(map[string]netlink.Link), byIndex: make(map[int]netlink.Link)}
	for _, link := range list {
		l.byName[link.Attrs().Name] = link
		l.byIndex[link.Attrs().Index] = link
	}
	return l, nil
}

// names returns the names of all links, sorted.
func (l links) names() []string {
	names := make([]string, 0, len(l.byName))
	for name := range l.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// name returns the name of a link by index; "" when there is none.
func (l links) name(index int) string {
	if link := l.byIndex[index]; link != nil {
		return link.Attrs().Name
	}
	return ""
}

// ports returns the names of a bridge's ports, sorted.
func (l links) ports(bridge netlink.Link) []string {
	var ports []string
	for _, link := range l.byIndex {
		if link.Attrs().MasterIndex == bridge.Attrs().Index {
			ports = append(ports, link.Attrs().Name)
		}
	}
	slices.Sort(ports)
	return ports
}

// host describes a link as plans see it.
func (l links) host(link netlink.Link) contract.HostLink {
	h := contract.HostLink{
		Name:  link.Attrs().Name,
		Kind:  kind(link),
		Alias: link.Attrs().Alias,
		MAC:   link.Attrs().HardwareAddr,
		MTU:   link.Attrs().MTU,
	}
	if h.Kind == kindBridge {
		h.Ports = l.ports(link)
	}
	return h
}

// kind is a link's IFLA_INFO_KIND, "" without one; the library has words of its own for two.
func kind(link netlink.Link) string {
	switch link.Type() {
	case "device":
		return ""
	case "tuntap":
		return kindTun
	}
	return link.Type()
}

// isTunnel reports whether a link is a tunnel device of ours.
func isTunnel(link netlink.Link) bool {
	k := kind(link)
	return contract.IsDeviceName(link.Attrs().Name) && (k == kindWireGuard || k == kindTun)
}

// isOurBridge reports whether a link is a bridge with our mark.
func isOurBridge(link netlink.Link) bool {
	return kind(link) == kindBridge && link.Attrs().Alias == contract.BridgeAlias
}

// adopt gives a link of ours our alias, its MTU (0: leave it) and the state up.
func (c *changes) adopt(link netlink.Link, mtu int) {
	attrs := link.Attrs()
	if attrs.Alias != contract.BridgeAlias {
		c.write("marking "+attrs.Name+" with our alias", func() error {
			return netlink.LinkSetAlias(link, contract.BridgeAlias)
		})
	}
	if mtu != 0 && attrs.MTU != mtu {
		c.write("setting the MTU of "+attrs.Name, func() error { return netlink.LinkSetMTU(link, mtu) })
	}
	if attrs.Flags&net.FlagUp == 0 {
		c.write("bringing up "+attrs.Name, func() error { return netlink.LinkSetUp(link) })
	}
}

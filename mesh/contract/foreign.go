package contract

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// HostLink is a network interface.
type HostLink struct {
	Name  string
	Kind  string // rtnetlink's IFLA_INFO_KIND: bridge, wireguard, tun, veth, …; "" for a physical one
	Alias string // IFLA_IFALIAS
	MAC   net.HardwareAddr
	MTU   int      // bytes
	Ports []string // of a bridge: the names of its ports
}

// ForeignBridge reports whose an interface with the name of our bridge is when it isn't ours: an error that says
// what it looks like and what to do. It returns nil for a bridge of ours, which has BridgeAlias, or mac and no
// alias (one that was being made). Addresses are those of the interface.
func ForeignBridge(link HostLink, addresses []netip.Prefix, mac net.HardwareAddr) error {
	if link.Kind == "bridge" {
		if link.Alias == BridgeAlias || link.Alias == "" && bytes.Equal(link.MAC, mac) {
			return nil
		}
	}
	looks := looksLike(link, addresses)
	remedy := fmt.Sprintf("remove it (`ip link delete %s`) if nothing uses it, or give Weaveguard another bridge name",
		link.Name)
	if strings.HasPrefix(looks, "Weave Net") {
		remedy = "move this node as docs/weave-net.md says: drain it, end Weave Net on it (with Kubernetes " + EndWeaveNet("NODE") +
			", without it `weave stop`), then run `weaveguard-agent cleanup --weave-net` there; removing the bridge alone isn't enough, " +
			"as rules of Weave Net would go on dropping what pods are sent"
	}
	return fmt.Errorf("the interface %s isn't Weaveguard's (a bridge of its own has the alias %q): it looks like "+
		"%s; %s", link.Name, BridgeAlias, looks, remedy)
}

// looksLike names the likely owner of an interface, with what gives it away.
func looksLike(link HostLink, addresses []netip.Prefix) string {
	for _, port := range link.Ports {
		if strings.HasPrefix(port, "vethwe") {
			return fmt.Sprintf("Weave Net's bridge (its port %s)", port)
		}
	}
	has := ""
	if len(addresses) > 0 {
		has = fmt.Sprintf(" with the address %v", addresses[0])
	}
	switch {
	case link.Kind == "openvswitch":
		return "Weave Net's fast datapath (an Open vSwitch datapath)"
	case link.Kind == "bridge" && link.Alias != "":
		return fmt.Sprintf("a bridge that somebody named %q%s", link.Alias, has)
	case link.Kind == "bridge" && link.Name == BridgeName && len(addresses) > 0:
		return "Weave Net's bridge, by its name," + has
	case link.Kind == "bridge":
		return fmt.Sprintf("another program's bridge with %d ports%s", len(link.Ports), has)
	case link.Kind == "":
		return "a physical interface" + has
	}
	return fmt.Sprintf("a %s interface%s", link.Kind, has)
}

package contract

import (
	"slices"
	"strings"
)

// What Weave Net has on a host, by the names that it gives things (its net/bridge.go, net/ipsec and npc/constants.go, and the
// scripts weave and prog/weave-kube/launch.sh, version 2.8). Its bridge has the name that Weaveguard's has.

// weaveNetLinks are its interfaces beside the bridge, and weaveNetPods begins those of containers' ends.
var weaveNetLinks = map[string]string{ // name: kind
	"vethwe-bridge": "veth", "vethwe-pcap": "veth", "vethwe-datapath": "veth", "vethwedu": "dummy",
	"datapath": "openvswitch", "vxlan-6784": "vxlan",
}

const weaveNetPods = "vethwe"

// EndWeaveNet is how Weave Net ends on one node alone of a cluster, once its DaemonSet follows a label as docs/weave-net.md has it:
// deleting the DaemonSet would end it on all of them.
func EndWeaveNet(node string) string { return "`kubectl label node " + node + " weave-net-`" }

// IsWeaveNetBridge reports whether an interface is Weave Net's bridge, or its datapath in the place of one: by its name, and by
// what Weaveguard's never has.
func IsWeaveNetBridge(l HostLink) bool {
	if l.Name != BridgeName || DerivedMAC(l.MAC) {
		return false
	}
	switch l.Kind {
	case "openvswitch":
		return true
	case "bridge":
		return l.Alias == ""
	}
	return false
}

// IsWeaveNetLink reports whether an interface is another one of Weave Net's.
func IsWeaveNetLink(l HostLink) bool {
	if kind, known := weaveNetLinks[l.Name]; known {
		return l.Kind == kind
	}
	return l.Kind == "veth" && strings.HasPrefix(l.Name, weaveNetPods)
}

// IsWeaveNetPod reports whether an interface of Weave Net's is the host's end of a container's.
func IsWeaveNetPod(l HostLink) bool {
	_, fixed := weaveNetLinks[l.Name]
	return !fixed && IsWeaveNetLink(l)
}

// IsWeaveNetChain reports whether a chain of iptables is Weave Net's.
func IsWeaveNetChain(name string) bool { return name == "WEAVE" || strings.HasPrefix(name, "WEAVE-") }

// WeaveNetFiles are Weave Net's files and directories on a host: where it keeps its peers, addresses and password, and what it
// gives to container runtimes. Its plugins are apart from them.
func WeaveNetFiles() []string {
	return []string{"/var/lib/weave", "/etc/cni/net.d/10-weave.conflist", "/etc/cni/net.d/10-weave.conf", "/var/run/weave"}
}

// weaveNetPlugins are the names of its plugins among a host's.
var weaveNetPlugins = []string{"weave-net", "weave-ipam"}

// IsWeaveNetPlugin reports whether a file among the plugins is Weave Net's: weave-net, weave-ipam, and weave-plugin-VERSION, which the
// two are links to.
func IsWeaveNetPlugin(name string) bool {
	return slices.Contains(weaveNetPlugins, name) || strings.HasPrefix(name, "weave-plugin-")
}

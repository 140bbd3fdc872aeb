package contract

import "strconv"

// Names and numbers that users, other programs and other nodes rely on.
const (
	// BridgeName is the bridge that attaches the pods of the default network.
	BridgeName = "weave"
	// DefaultCNINetwork is the name of the default network for the container runtime. No other network has it.
	DefaultCNINetwork = "weaveguard"
	// PluginType is the name of the plugin for the container runtime.
	PluginType = "weaveguard"
	// DevicePrefix and a digit from 0 to 3 make the name of a tunnel device.
	DevicePrefix = "weave-wg"
	// MaxDevices is how many tunnel devices a node has at most: two parities of its own generation by two of
	// a peer's.
	MaxDevices = 4
	// BasePort is the UDP port of tunnel device 0; device N listens on BasePort+N.
	BasePort = 51820
	// GossipPort is the TCP and UDP port of the agents' gossip.
	GossipPort = 6783
	// MetricsPort is the TCP port of the metrics. HealthPort is that of the probes, and UIPort that of the web page, on
	// loopback only (Weave Net has its own status on 6784).
	MetricsPort = 6782
	HealthPort  = 6785
	UIPort      = 6786
	// RouteProtocol marks the routes that the agent owns (rtnetlink's rtm_protocol).
	RouteProtocol = 213
	// FirewallTable is the name of the nftables tables, of the families inet and bridge, that the agent owns.
	FirewallTable = "weaveguard"
	// Annotations on a Node, written by its own agent.
	AnnotationIdentity      = "weaveguard.io/identity"
	AnnotationPublicKey     = "weaveguard.io/public-key"
	AnnotationKeyGeneration = "weaveguard.io/key-generation"
	// AnnotationKeyRotatedAt is when the key in use was made, in UTC (RFC 3339).
	AnnotationKeyRotatedAt = "weaveguard.io/key-rotated-at"
	// AnnotationRotation is how far the rotation of keys is: one word as in view.RotationStatus.Phase, and where there is
	// something to say a colon and a short reason.
	AnnotationRotation = "weaveguard.io/rotation"
	// AnnotationRotateKeys is set by users, to RotateNow, for the node to change its WireGuard key. The agent removes
	// it once it has noted the request.
	AnnotationRotateKeys = "weaveguard.io/rotate-keys"
	RotateNow            = "now"
	// AnnotationEndpoint is set by users: the IP address that peers send to.
	AnnotationEndpoint = "weaveguard.io/endpoint"
	// AnnotationPodRange and AnnotationMaskSize are on the Lease that fixes what nodes claim their pod CIDRs from: ranges,
	// and the lengths of the blocks that each is cut into.
	AnnotationPodRange = "weaveguard.io/pod-range"
	AnnotationMaskSize = "weaveguard.io/node-cidr-mask-size"
)

// What of a node pods don't reach unless they are allowed to.
const (
	ServiceMetrics = "metrics"
	ServiceHealth  = "health"
	ServiceGossip  = "gossip"
	ServiceUI      = "ui"
)

// GuardedServices are the names of what pods may be allowed to reach. WireGuard's ports aren't among them.
func GuardedServices() []string {
	return []string{ServiceMetrics, ServiceHealth, ServiceGossip, ServiceUI}
}

// Paths on a node.
const (
	RunDir      = "/run/weaveguard"
	StateDir    = "/var/lib/weaveguard"
	AgentSocket = RunDir + "/agent.sock"
	// NetworksFile keeps, in the state directory, the networks that were configured last.
	NetworksFile = "networks.json"
	// NetworksDir has the configuration of networks beside the default one.
	NetworksDir = "/etc/weaveguard/networks"
	// ConflistName is the file of our network configuration. Runtimes take the first of the directory.
	ConflistName = "05-weaveguard.conflist"
	// CacheFile is the view cache in the state directory.
	CacheFile = "view.json"
	// HostsFile has, in the state directory, the hosts that were joined by hand.
	HostsFile = "hosts"
)

// DeviceName is the name of tunnel device number, from 0 to MaxDevices-1.
func DeviceName(number int) string { return DevicePrefix + strconv.Itoa(number) }

// IsDeviceName reports whether name is that of a tunnel device.
func IsDeviceName(name string) bool {
	for number := range MaxDevices {
		if name == DeviceName(number) {
			return true
		}
	}
	return false
}

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// minRotateEvery keeps a mistyped unit from making the mesh do nothing but rotate.
const minRotateEvery = time.Minute

// options are the flags of the agent, as given, and what complete makes of them.
type options struct {
	NodeName      string
	Kubernetes    bool
	Kubeconfig    string
	Namespace     string
	Address       string
	Peers         []string
	GossipKeyFile string
	PodCIDRs      []string
	PodRanges     []string
	Claim         string
	MaskSize      int
	MaskSize6     int
	MTU           int
	Bridge        string
	WireGuard     string
	StateDir      string
	RunDir        string
	NetworksDir   string
	SysctlRoot    string
	CNIConfDir    string
	CNIBinDir     string
	PluginDir     string
	MetricsAddr   string
	HealthAddr    string
	UIAddr        string
	AllowPodsTo   []string
	RotateEvery   time.Duration
	SilentAfter   time.Duration
	ClockOffset   time.Duration
	LogLevel      string
	LogFormat     string

	address   netip.Addr
	podCIDRs  []netip.Prefix
	podRanges []netip.Prefix
	ownPorts  []view.OwnPort
}

func (o *options) register(f *pflag.FlagSet) {
	f.StringVar(&o.NodeName, "node-name", os.Getenv("NODE_NAME"), "name of this node, by default $NODE_NAME, else the hostname")
	f.BoolVar(&o.Kubernetes, "kubernetes", false, "learn of nodes and their pod CIDRs from Kubernetes")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "file to reach the Kubernetes API with, by default the pod's service account")
	f.StringVar(&o.Namespace, "namespace", "kube-system", "namespace that Weaveguard is installed in")
	f.StringVar(&o.Address, "address", "", "underlay address of this node (default the Node's InternalIP; without Kubernetes, the "+
		"one that reaches the first peer)")
	f.StringSliceVar(&o.Peers, "peers", nil, "hosts of the mesh to join, by name or address; without Kubernetes")
	f.StringVar(&o.GossipKeyFile, "gossip-key-file", "", "file with the gossip keyring, followed as it changes: a line for each "+
		"key, 32 bytes in base64; without Kubernetes")
	f.StringSliceVar(&o.PodCIDRs, "pod-cidr", nil, "pod CIDR of this node, one for each address family; without Kubernetes (default "+
		"claimed from the pod range)")
	f.StringSliceVar(&o.PodRanges, "pod-range", nil, "all addresses that pods of any node have (default kubeadm's podSubnet, else "+
		"what is claimed from, else the pod CIDRs seen)")
	o.registerClaims(f)
	f.IntVar(&o.MTU, "mtu", 0, "MTU inside the tunnels in bytes (default what the underlay carries)")
	f.StringVar(&o.Bridge, "bridge", contract.BridgeName, "name of the bridge that attaches the pods")
	f.StringVar(&o.WireGuard, "wireguard", "auto", "auto, kernel or userspace: who makes the tunnel devices")
	f.DurationVar(&o.RotateEvery, "rotate-every", 0, "change this node's WireGuard key when it is about that old, such as 720h; 0: "+
		"only when asked to")
	// For tests, which can't wait as long as WireGuard keeps a session.
	f.DurationVar(&o.SilentAfter, "silent-after", 0, "how long a peer must be silent to hold up a rotation no more (default 180s)")
	_ = f.MarkHidden("silent-after") // it exists
	// For tests, on machines that have one clock for all nodes.
	f.DurationVar(&o.ClockOffset, "clock-offset", 0, "how far ahead the clock is that other nodes are told")
	_ = f.MarkHidden("clock-offset") // it exists
	f.StringVar(&o.StateDir, "state-dir", contract.StateDir, "directory for keys and the view cache, kept across reboots")
	f.StringVar(&o.NetworksDir, "networks-dir", contract.NetworksDir, "directory with the configuration of further networks, a file "+
		"NAME.conf for each, followed as it changes")
	f.StringVar(&o.MetricsAddr, "metrics-address", fmt.Sprintf(":%d", contract.MetricsPort), "host:port of the metrics; empty: none")
	f.StringVar(&o.HealthAddr, "health-address", fmt.Sprintf("127.0.0.1:%d", contract.HealthPort), "host:port of the probes; empty: none")
	f.StringVar(&o.UIAddr, "ui-address", fmt.Sprintf("127.0.0.1:%d", contract.UIPort), "host:port of the web page, which whoever reaches it "+
		"can read; empty: none")
	f.StringSliceVar(&o.AllowPodsTo, "allow-pods-to", nil, "what of nodes pods may reach: "+
		strings.Join(contract.GuardedServices(), ", ")+" (default none of these)")
}

// registerLog registers what all modes have.
func (o *options) registerLog(f *pflag.FlagSet) {
	f.StringVar(&o.RunDir, "run-dir", contract.RunDir, "directory for sockets and attachments, gone after a reboot")
	f.StringVar(&o.LogLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.LogFormat, "log-format", "text", "text or json")
}

// registerHost registers what is needed to change, and to clean up, a host.
func (o *options) registerHost(f *pflag.FlagSet) {
	f.StringVar(&o.SysctlRoot, "sysctl-root", "/proc/sys", "where the kernel's settings can be written")
	f.StringVar(&o.CNIConfDir, "cni-conf-dir", "/etc/cni/net.d", "where the container runtime looks for network configurations")
	f.StringVar(&o.CNIBinDir, "cni-bin-dir", "/opt/cni/bin", "where the container runtime looks for plugins")
	f.StringVar(&o.PluginDir, "plugin-dir", "/cni", "where the plugins to install are")
}

// complete checks the flags, and fills in what follows from others.
func (o *options) complete() error {
	if o.NodeName == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("finding the node's name: %w; give it with --node-name", err)
		}
		o.NodeName = host
	}
	if errs := validation.IsDNS1123Subdomain(o.NodeName); len(errs) > 0 {
		return fmt.Errorf("--node-name is %q: %s", o.NodeName, errs[0])
	}
	if o.Address != "" {
		address, err := netip.ParseAddr(o.Address)
		if err != nil || !address.IsGlobalUnicast() {
			return fmt.Errorf("--address is %q: it takes a unicast IP address of this host", o.Address)
		}
		o.address = address.Unmap()
	}
	if o.MTU != 0 && (o.MTU < record.MinMTU || o.MTU > 65535) {
		return fmt.Errorf("--mtu is %d: it takes %d to 65535 bytes", o.MTU, record.MinMTU)
	}
	if len(o.Bridge) == 0 || len(o.Bridge) > 15 {
		return fmt.Errorf("--bridge is %q: the name of an interface has 1 to 15 characters", o.Bridge)
	}
	if o.SilentAfter < 0 {
		return fmt.Errorf("--silent-after is %s: it can't be negative", o.SilentAfter)
	}
	if o.RotateEvery != 0 && o.RotateEvery < minRotateEvery {
		return fmt.Errorf("--rotate-every is %s: it takes %s or more, or 0 for never", o.RotateEvery, minRotateEvery)
	}
	var errs [5]error
	o.podCIDRs, errs[0] = parsePrefixes("--pod-cidr", o.PodCIDRs)
	o.podRanges, errs[1] = parsePrefixes("--pod-range", o.PodRanges)
	errs[2] = o.checkMode()
	errs[3] = o.checkPodPorts()
	errs[4] = o.checkClaims()
	return errors.Join(errs[:]...)
}

func (o *options) checkMode() error {
	switch o.WireGuard {
	case "auto", "kernel", "userspace":
	default:
		return fmt.Errorf("--wireguard is %q: it takes auto, kernel or userspace", o.WireGuard)
	}
	if o.Kubernetes {
		if len(o.podCIDRs) > 0 || o.GossipKeyFile != "" {
			return errors.New("--pod-cidr and --gossip-key-file are for hosts without Kubernetes: with it, both come from there")
		}
		return nil
	}
	if o.GossipKeyFile == "" {
		return errors.New("without --kubernetes, give the mesh's secret with --gossip-key-file (make one with: " +
			"head -c 32 /dev/urandom | base64)")
	}
	families := map[bool]bool{}
	for _, cidr := range o.podCIDRs {
		if families[cidr.Addr().Is4()] {
			return errors.New("--pod-cidr has more than one range of an address family")
		}
		families[cidr.Addr().Is4()] = true
	}
	return nil
}

func parsePrefixes(flag string, texts []string) ([]netip.Prefix, error) {
	var prefixes []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %q isn't a range of addresses such as 10.32.5.0/24", flag, text)
		}
		if prefix != prefix.Masked() || prefix.Bits() == 0 {
			return nil, fmt.Errorf("%s: %q isn't a range: did you mean %s?", flag, text, prefix.Masked())
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, nil
}

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/utils"

	"github.com/weaveguard/weaveguard/cni/bridge"
	"github.com/weaveguard/weaveguard/cni/ipam"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

const (
	// defaultMTU leaves room for WireGuard over IPv4 on an Ethernet of 1500 bytes, and 20 bytes to spare.
	defaultMTU = 1420
	// minMTU and minMTUv6 are the smallest that IPv4 (RFC 791) and IPv6 (RFC 8200) allow.
	minMTU   = 68
	minMTUv6 = 1280
	maxMTU   = 65535
)

// config is the plugin's configuration. Every key has a default.
type config struct {
	types.PluginConf
	// Bridge is the name of the network's bridge. Default: the ready file's, or weave.
	Bridge string `json:"bridge"`
	// Subnets are what pods get addresses of: one of each family at most. Default: the ready file's. With subnets and
	// without ranges the ready file isn't needed.
	Subnets []string `json:"subnets"`
	// Ranges are those of a whole network beside the default one, which the ready file has to have: so an agent's file of a
	// network is a configuration of the plugin too.
	Ranges []string `json:"ranges"`
	// MTU of the pods' interfaces in bytes. Default: the ready file's, or 1420.
	MTU int `json:"mtu"`
	// DataDir is where attachments are kept. Default: store.DefaultDir.
	DataDir string `json:"dataDir"`
	// ReadyFile is where the agent says that pods can be attached. Default: store.DefaultReadyFile.
	ReadyFile string `json:"readyFile"`
	// RuntimeConfig is what the runtime asks for.
	RuntimeConfig runtimeConfig `json:"runtimeConfig"`
}

// parse reads the configuration as far as every verb needs it.
func parse(stdin []byte) (*config, error) {
	c := &config{}
	if err := json.Unmarshal(stdin, c); err != nil {
		var mismatch *json.UnmarshalTypeError
		if errors.As(err, &mismatch) {
			return nil, fail(types.ErrDecodingFailure, fmt.Sprintf("network configuration, key %s: it is a JSON %s, and "+
				"must be %s", strings.TrimPrefix(mismatch.Field, "PluginConf."), mismatch.Value, kindName(mismatch)))
		}
		return nil, wrap(types.ErrDecodingFailure, "network configuration", err)
	}
	if c.DataDir == "" {
		c.DataDir = store.DefaultDir
	}
	if c.ReadyFile == "" {
		c.ReadyFile = store.DefaultReadyFile
	}
	for key, path := range map[string]string{"dataDir": c.DataDir, "readyFile": c.ReadyFile} {
		if !filepath.IsAbs(path) {
			return nil, invalid(key, "%q isn't an absolute path; leave it out, or write one", path)
		}
	}
	return c, nil
}

func kindName(e *json.UnmarshalTypeError) string {
	switch e.Type.Kind().String() {
	case "int":
		return "a number"
	case "slice":
		return "a list"
	}
	return "a " + e.Type.Kind().String()
}

func invalid(key, format string, args ...any) *types.Error {
	return fail(types.ErrInvalidNetworkConfig, "network configuration, key "+key+": "+fmt.Sprintf(format, args...))
}

// network is a configuration with its defaults filled in, and found valid.
type network struct {
	bridge string
	mtu    int // bytes
	pools  []ipam.Pool
	ranges []netip.Prefix // what pods reach by it; nil: everything
	// reached are ranges of other networks that pods reach by it, unless they have an interface of their own there.
	reached []netip.Prefix
}

// alone reports whether the configuration says all by itself, and is to work without an agent.
func (c *config) alone() bool { return c.Subnets != nil && c.Ranges == nil }

func (n network) gateways() []netip.Addr {
	var all []netip.Addr
	for _, p := range n.pools {
		all = append(all, p.Gateway)
	}
	return all
}

func (n network) spec() bridge.Spec {
	s := bridge.Spec{Name: n.bridge, MTU: n.mtu}
	for _, p := range n.pools {
		s.Subnets = append(s.Subnets, bridge.Subnet{Prefix: p.Subnet, Gateway: p.Gateway})
	}
	return s
}

// resolve fills in what the configuration leaves out, from the ready file unless it has subnets of its own.
func (c *config) resolve() (network, error) {
	n := network{bridge: c.Bridge, mtu: c.MTU}
	if c.IPAM.Type != "" {
		return n, fail(types.ErrUnsupportedField, fmt.Sprintf("network configuration, key ipam: %q can't be used, because "+
			"weaveguard gives addresses itself; remove the key", c.IPAM.Type))
	}
	fill := c.fromReadyFile
	if c.alone() {
		fill = c.fromSubnets
	}
	if err := fill(&n); err != nil {
		return n, err
	}
	if n.bridge == "" {
		n.bridge = contract.BridgeName
	}
	if n.mtu == 0 {
		n.mtu = defaultMTU
	}
	if err := n.validate(); err != nil {
		return n, err
	}
	return n, nil
}

func (c *config) fromReadyFile(n *network) error {
	ready, err := store.ReadReady(c.ReadyFile)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(types.ErrTryAgainLater, fmt.Sprintf("the Weaveguard agent isn't ready on this node yet: %s doesn't "+
			"exist. It appears when the agent has set up the node's network; if it doesn't, see `kubectl logs -n "+
			"kube-system POD -c weave` of the weaveguard pod on this node", c.ReadyFile))
	case errors.Is(err, store.ErrReadyInvalid):
		return fail(types.ErrDecodingFailure, fmt.Sprintf("%v; the Weaveguard agent on this node writes it again when it "+
			"is restarted", err))
	case err != nil:
		return wrap(types.ErrIOFailure, "waiting for the Weaveguard agent", err)
	}
	if other, ok := ready.Network(c.Name); ok {
		return c.fromNetwork(n, other)
	}
	if c.Ranges != nil || n.bridge == "" && c.Name != contract.DefaultCNINetwork {
		return fail(types.ErrTryAgainLater, fmt.Sprintf("the network %s isn't ready on this node: the Weaveguard agent has no network of "+
			"this name, or hasn't set it up yet (`weaveguard status` tells; its file belongs into %s). For the default network, "+
			"name the configuration %s, or add the key bridge with %q", c.Name, contract.NetworksDir, contract.DefaultCNINetwork, ready.Bridge))
	}
	if n.bridge != "" && n.bridge != ready.Bridge {
		return invalid("subnets", "it is missing, and the ready file's subnets are of the bridge %s, not of %s; add subnets, "+
			"or remove bridge", ready.Bridge, n.bridge)
	}
	n.take(ready.Bridge, ready.Subnets, ready.Gateways, ready.MTU)
	return nil
}

// fromNetwork takes a network beside the default one as the agent has it. What the configuration says of it too has to be
// the same.
func (c *config) fromNetwork(n *network, ready store.ReadyNetwork) error {
	for _, said := range []struct {
		key       string
		have      any
		want      any
		different bool
	}{
		{"bridge", c.Bridge, ready.Bridge, c.Bridge != "" && c.Bridge != ready.Bridge},
		{"subnets", c.Subnets, ready.Subnets, c.Subnets != nil && !sameRanges(c.Subnets, ready.Subnets)},
		{"ranges", c.Ranges, ready.Ranges, c.Ranges != nil && !sameRanges(c.Ranges, ready.Ranges)},
	} {
		if said.different {
			return invalid(said.key, "it is %v, and the agent has %v for the network %s on this node; leave it out to take the agent's",
				said.have, said.want, ready.Name)
		}
	}
	n.take(ready.Bridge, ready.Subnets, ready.Gateways, ready.MTU)
	n.ranges, n.reached = ready.Ranges, ready.Reached
	return nil
}

// take takes over what the ready file has of a network.
func (n *network) take(bridge string, subnets []netip.Prefix, gateways []netip.Addr, mtu int) {
	n.bridge = bridge
	if n.mtu == 0 {
		n.mtu = mtu
	}
	for i, subnet := range subnets {
		n.pools = append(n.pools, ipam.Pool{Subnet: subnet, Gateway: gateways[i]})
	}
}

// sameRanges reports whether texts are these ranges, in any order.
func sameRanges(texts []string, ranges []netip.Prefix) bool {
	var all []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			return false
		}
		all = append(all, p)
	}
	ranges = slices.SortedFunc(slices.Values(ranges), netip.Prefix.Compare)
	return slices.Equal(slices.SortedFunc(slices.Values(all), netip.Prefix.Compare), ranges)
}

// fromSubnets takes what the configuration says, unless its name is that of a network that the agent has: who asks for a
// network gets that one.
func (c *config) fromSubnets(n *network) error {
	if ready, err := store.ReadReady(c.ReadyFile); err == nil {
		if other, ok := ready.Network(c.Name); ok {
			return c.fromNetwork(n, other)
		}
	}
	if len(c.Subnets) == 0 {
		return invalid("subnets", "it is empty; leave it out to take those of the agent, or give one like 10.32.5.0/24")
	}
	for _, s := range c.Subnets {
		subnet, err := netip.ParsePrefix(s)
		if err != nil {
			return invalid("subnets", "%q isn't a subnet like 10.32.5.0/24", s)
		}
		n.pools = append(n.pools, ipam.Pool{Subnet: subnet, Gateway: contract.Gateway(subnet)})
	}
	return nil
}

// validate also puts the IPv4 subnet first, and with it a pod's IPv4 address.
func (n *network) validate() error {
	if err := utils.ValidateInterfaceName(n.bridge); err != nil {
		return invalid("bridge", "%q can't be an interface's name: %s; use 1 to 15 characters without / : and spaces", n.bridge, err.Msg)
	}
	hasIPv6 := false
	for _, p := range n.pools {
		if err := p.Validate(); err != nil {
			return invalid("subnets", "%v", err)
		}
		hasIPv6 = hasIPv6 || p.Subnet.Addr().Is6()
	}
	slices.SortStableFunc(n.pools, func(a, b ipam.Pool) int { return a.Subnet.Addr().BitLen() - b.Subnet.Addr().BitLen() })
	for i := 1; i < len(n.pools); i++ {
		a, b := n.pools[i-1].Subnet, n.pools[i].Subnet
		if a.Addr().BitLen() == b.Addr().BitLen() {
			return invalid("subnets", "%s and %s are of the same family; give one IPv4 and one IPv6 subnet at most", a, b)
		}
	}
	lowest := minMTU
	if hasIPv6 {
		lowest = minMTUv6
	}
	if n.mtu < lowest || n.mtu > maxMTU {
		return invalid("mtu", "%d isn't between %d and %d; leave it out to take the agent's", n.mtu, lowest, maxMTU)
	}
	return nil
}

package netconf

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/utils"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// minHostBits is what a subnet leaves for addresses at least: its first and last aren't given, and one is the gateway.
const minHostBits = 2

// file is one file: the configuration of the plugin for a network (CNI specification 1.1, section 1). What is of no
// meaning to the agent is passed over if the plugin, or the specification, knows it.
type file struct {
	CNIVersion string   `json:"cniVersion"`
	Name       string   `json:"name"`
	Type       string   `json:"type"`
	Bridge     string   `json:"bridge"`
	Subnets    []string `json:"subnets"`
	Ranges     []string `json:"ranges"`
	Reaches    []string `json:"reaches"`

	MTU          json.RawMessage `json:"mtu"`
	DataDir      json.RawMessage `json:"dataDir"`
	ReadyFile    json.RawMessage `json:"readyFile"`
	Capabilities json.RawMessage `json:"capabilities"`
	Args         json.RawMessage `json:"args"`
	DNS          json.RawMessage `json:"dns"`
	DisableCheck json.RawMessage `json:"disableCheck"`
}

// faulty is what is wrong with a file, and what to do.
type faulty struct{ message, remedy string }

func (f *faulty) Error() string { return f.message }

func wrong(remedy, format string, args ...any) error {
	return &faulty{fmt.Sprintf(format, args...), remedy}
}

// host is what files are judged by.
type host struct {
	bridge string // of the default network
	ipv6   bool   // the kernel has it
}

// parse reads a file. Its errors name the key.
func parse(raw []byte, h host) (view.Network, error) {
	f, err := decode(raw)
	if err != nil {
		return view.Network{}, err
	}
	if f.Type != contract.PluginType {
		return view.Network{}, wrong(fmt.Sprintf("write %q, or keep the configurations of other plugins elsewhere", contract.PluginType),
			"key type: it is %q", f.Type)
	}
	n := view.Network{Name: f.Name, Bridge: f.Bridge}
	if err := checkName(f.Name); err != nil {
		return view.Network{}, err
	}
	if err := checkBridge(f.Bridge, h); err != nil {
		return view.Network{}, err
	}
	if n.Ranges, err = readPrefixes("ranges", f.Ranges, h); err != nil {
		return view.Network{}, err
	}
	if n.CIDRs, err = readPrefixes("subnets", f.Subnets, h); err != nil {
		return view.Network{}, err
	}
	if err := checkParts(n); err != nil {
		return view.Network{}, err
	}
	if err := (record.Network{Name: n.Name, Ranges: n.Ranges, CIDRs: n.CIDRs}).Validate(); err != nil {
		return view.Network{}, wrong("give the network ranges and subnets of ordinary addresses", "key %v", err)
	}
	n.Reaches, err = readReaches(f)
	return n, err
}

func decode(raw []byte) (file, error) {
	const remedy = `write it like {"cniVersion": "1.0.0", "name": "blue", "type": "weaveguard", "bridge": "weave-blue", ` +
		`"subnets": ["10.50.1.0/24"], "ranges": ["10.50.0.0/16"]}`
	var f file
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(&f)
	if err == nil {
		if _, err = decoder.Token(); errors.Is(err, io.EOF) {
			return f, nil
		}
		return file{}, wrong(remedy, "there is something behind the end of the configuration")
	}
	var mismatch *json.UnmarshalTypeError
	const unknown = "json: unknown field "
	switch {
	case errors.As(err, &mismatch) && mismatch.Field != "":
		return file{}, wrong(remedy, "key %s: it is a JSON %s", mismatch.Field, mismatch.Value)
	case strings.Contains(err.Error(), unknown+`"plugins"`):
		return file{}, wrong("take the configuration of weaveguard out of the list", "key plugins: it is a list of plugins, and here is one to a file")
	case strings.HasPrefix(err.Error(), unknown):
		return file{}, wrong("remove it, or correct its spelling", "key %s: there is no such key", strings.Trim(strings.TrimPrefix(err.Error(), unknown), `"`))
	}
	return file{}, wrong(remedy, "it isn't a JSON object that can be read: %v", err)
}

func checkName(name string) error {
	if err := record.ValidateNetworkName(name); err != nil {
		return wrong("name the network as on the other nodes, such as blue", "key %v", err)
	}
	if name == view.DefaultNetwork || name == contract.DefaultCNINetwork {
		return wrong("choose another name", "key name: %q is the default network", name)
	}
	return nil
}

func checkBridge(name string, h host) error {
	const remedy = "name a bridge of the network's own, such as weave-blue: 1 to 15 characters without / : and spaces"
	if name == "" {
		return wrong(remedy, "key bridge: it is missing")
	}
	if err := utils.ValidateInterfaceName(name); err != nil {
		return wrong(remedy, "key bridge: %q can't be an interface's name: %s", name, err.Msg)
	}
	switch {
	case name == h.bridge || name == contract.BridgeName:
		return wrong(remedy, "key bridge: %s is the default network's", name)
	case strings.HasPrefix(name, contract.DevicePrefix):
		return wrong(remedy, "key bridge: %s begins like the name of a tunnel device", name)
	case name == "lo" || name == "all" || name == "default":
		return wrong(remedy, "key bridge: %s has a meaning of its own on every host", name)
	}
	return nil
}

// readPrefixes reads one of each family at most, and puts IPv4 first.
func readPrefixes(key string, texts []string, h host) ([]netip.Prefix, error) {
	example := map[string]string{"ranges": "10.50.0.0/16", "subnets": "10.50.1.0/24"}[key]
	if len(texts) == 0 {
		return nil, wrong(fmt.Sprintf("give one like %s, or one of each family", example), "key %s: it is missing", key)
	}
	var prefixes []netip.Prefix
	for _, text := range texts {
		p, err := netip.ParsePrefix(text)
		switch {
		case err != nil || p.Addr().Is4In6():
			return nil, wrong("write one like "+example, "key %s: %q isn't a range of addresses", key, text)
		case p != p.Masked():
			return nil, wrong("write "+p.Masked().String()+", if that is what you mean", "key %s: %s has bits behind its length", key, text)
		case p.Addr().Is6() && !h.ipv6:
			return nil, wrong("turn IPv6 on in this node's kernel, or leave the range out", "key %s: %s is IPv6, which this node's kernel doesn't have", key, p)
		}
		prefixes = append(prefixes, p)
	}
	slices.SortStableFunc(prefixes, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	for i := 1; i < len(prefixes); i++ {
		if a, b := prefixes[i-1], prefixes[i]; a.Addr().BitLen() == b.Addr().BitLen() {
			return nil, wrong("keep one of each family", "key %s: %s and %s are of the same family", key, a, b)
		}
	}
	return prefixes, nil
}

// checkParts checks that the node's part of a network has room, and is of the network's families. That it is inside is
// checked as it is for other nodes.
func checkParts(n view.Network) error {
	for _, p := range n.CIDRs {
		if p.Bits() > p.Addr().BitLen()-minHostBits {
			return wrong("give one with at least 4 addresses, such as a /24", "key subnets: %s has no room for a gateway and pods", p)
		}
	}
	families := func(prefixes []netip.Prefix) []bool {
		var all []bool
		for _, p := range prefixes {
			all = append(all, p.Addr().Is4())
		}
		return all
	}
	if !slices.Equal(families(n.CIDRs), families(n.Ranges)) {
		return wrong("give a subnet for each range, of its family", "key subnets: %v are of other families than the ranges %v", n.CIDRs, n.Ranges)
	}
	return nil
}

func readReaches(f file) ([]string, error) {
	for _, name := range f.Reaches {
		if err := record.ValidateNetworkName(name); err != nil {
			return nil, wrong("name networks, or default", "key reaches: %q isn't the name of a network", name)
		}
		if name == f.Name {
			return nil, wrong("remove it: pods of a network always reach each other", "key reaches: %q is the network itself", name)
		}
	}
	reaches := slices.Clone(f.Reaches)
	slices.Sort(reaches)
	return slices.Compact(reaches), nil
}

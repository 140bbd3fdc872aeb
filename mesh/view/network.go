package view

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/weaveguard/weaveguard/mesh/record"
)

// MaxNetworks is how many networks beside the default one a node has at most.
const MaxNetworks = record.MaxNetworks

// JoinPrefixes names prefixes in a sentence, such as one of each family.
func JoinPrefixes(prefixes []netip.Prefix) string {
	texts := make([]string, 0, len(prefixes))
	for _, p := range prefixes {
		texts = append(texts, p.String())
	}
	return strings.Join(texts, " and ")
}

// DefaultNetwork is the name by which networks are asked to reach the default one. No other network has it.
const DefaultNetwork = "default"

// Network is a network beside the default one, as one node has it.
type Network struct {
	Name   string         `json:"name"`             // of the CNI network, the same on all nodes that have it
	Bridge string         `json:"bridge,omitempty"` // on this node; "" for other nodes'
	Ranges []netip.Prefix `json:"ranges"`           // of the whole network, the same on all nodes; at most one of each family, IPv4 first, masked
	CIDRs  []netip.Prefix `json:"cidrs"`            // this node's part of Ranges; at most one of each family, IPv4 first, masked
	// Reaches are the names of the networks that this one is asked to reach, sorted; only of this node's own.
	Reaches []string `json:"reaches,omitempty"`
}

// Equal reports whether two networks are the same in all fields.
func (n Network) Equal(other Network) bool {
	return n.Name == other.Name && n.Bridge == other.Bridge && slices.Equal(n.Ranges, other.Ranges) &&
		slices.Equal(n.CIDRs, other.CIDRs) && slices.Equal(n.Reaches, other.Reaches)
}

// String is the network as text.
func (n Network) String() string {
	return n.Name + when(n.Bridge != "", " bridge "+n.Bridge) + " ranges " + list(n.Ranges) + " cidrs " + list(n.CIDRs) +
		when(len(n.Reaches) > 0, " reaches "+list(n.Reaches))
}

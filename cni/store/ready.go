package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
)

// DefaultReadyFile is where the agent writes the ready file.
const DefaultReadyFile = "/run/weaveguard/cni.json"

// ErrReadyInvalid says that the ready file exists, but isn't one that this program understands.
var ErrReadyInvalid = errors.New("the ready file can't be used")

// Ready is the ready file: the agent writes it once routes and firewall stand, and removes it when pods must not be
// attached. It is JSON; a reboot removes it with /run.
type Ready struct {
	Version  int            `json:"version"`  // ReadyVersion
	Bridge   string         `json:"bridge"`   // the bridge of the default network
	Subnets  []netip.Prefix `json:"subnets"`  // one of each family at most, IPv4 first
	Gateways []netip.Addr   `json:"gateways"` // the bridge's address in each subnet, in the same order
	MTU      int            `json:"mtu"`      // bytes, of the pods' interfaces
	// Networks are those beside the default one that pods can be attached to, sorted by name.
	Networks []ReadyNetwork `json:"networks,omitempty"`
}

// ReadyNetwork is a network beside the default one that pods can be attached to.
type ReadyNetwork struct {
	Name     string         `json:"name"`              // of the CNI network
	Bridge   string         `json:"bridge"`            // of the network on this node
	Subnets  []netip.Prefix `json:"subnets"`           // as Ready's
	Gateways []netip.Addr   `json:"gateways"`          // as Ready's
	Ranges   []netip.Prefix `json:"ranges"`            // of the whole network; what pods reach by it
	Reached  []netip.Prefix `json:"reached,omitempty"` // of networks beside the default one that it isn't kept apart from
	MTU      int            `json:"mtu"`               // bytes, of the pods' interfaces
}

// Network returns the network of this name beside the default one.
func (r Ready) Network(name string) (ReadyNetwork, bool) {
	at := slices.IndexFunc(r.Networks, func(n ReadyNetwork) bool { return n.Name == name })
	if at < 0 {
		return ReadyNetwork{}, false
	}
	return r.Networks[at], true
}

// Equal reports whether two ready files say the same.
func (r Ready) Equal(other Ready) bool {
	return r.Version == other.Version && r.Bridge == other.Bridge && r.MTU == other.MTU &&
		slices.Equal(r.Subnets, other.Subnets) && slices.Equal(r.Gateways, other.Gateways) &&
		slices.EqualFunc(r.Networks, other.Networks, ReadyNetwork.equal)
}

func (n ReadyNetwork) equal(other ReadyNetwork) bool {
	return n.Name == other.Name && n.Bridge == other.Bridge && n.MTU == other.MTU &&
		slices.Equal(n.Subnets, other.Subnets) && slices.Equal(n.Gateways, other.Gateways) &&
		slices.Equal(n.Ranges, other.Ranges) && slices.Equal(n.Reached, other.Reached)
}

// ReadyVersion is the format that this program writes and reads.
const ReadyVersion = 1

// ReadReady reads a ready file. Its error is fs.ErrNotExist when the node isn't ready, and ErrReadyInvalid when the
// file can't be understood.
func ReadReady(path string) (Ready, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Ready{}, fmt.Errorf("reading the ready file: %w", err)
	}
	var r Ready
	if err := json.Unmarshal(b, &r); err != nil {
		return Ready{}, fmt.Errorf("%w: %s: %w", ErrReadyInvalid, path, err)
	}
	if err := r.validate(); err != nil {
		return Ready{}, fmt.Errorf("%w: %s: %w", ErrReadyInvalid, path, err)
	}
	return r, nil
}

// WriteReady makes the ready file appear, or change, at once. One process may write it at a time. Version may be 0.
func WriteReady(path string, r Ready) error {
	r.Version = ReadyVersion
	if err := r.validate(); err != nil {
		return fmt.Errorf("writing the ready file: %w", err)
	}
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the ready file: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing the ready file: %w", err)
	}
	if err := writeFile(path, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the ready file: %w", err)
	}
	return nil
}

func (r Ready) validate() error {
	if r.Version != ReadyVersion {
		return fmt.Errorf("version is %d, and this program knows %d; agent and plugin are of different releases",
			r.Version, ReadyVersion)
	}
	if err := validateNetwork(r.Bridge, r.Subnets, r.Gateways, r.MTU); err != nil {
		return err
	}
	for _, n := range r.Networks {
		if err := n.validate(); err != nil {
			return fmt.Errorf("network %q: %w", n.Name, err)
		}
	}
	return nil
}

func (n ReadyNetwork) validate() error {
	switch {
	case n.Name == "":
		return errors.New("name is missing")
	case len(n.Ranges) == 0:
		return errors.New("ranges is empty")
	case slices.ContainsFunc(slices.Concat(n.Ranges, n.Reached), func(p netip.Prefix) bool { return !p.IsValid() || p != p.Masked() }):
		return fmt.Errorf("ranges %v or reached %v aren't ranges", n.Ranges, n.Reached)
	}
	return validateNetwork(n.Bridge, n.Subnets, n.Gateways, n.MTU)
}

func validateNetwork(bridge string, subnets []netip.Prefix, gateways []netip.Addr, mtu int) error {
	switch {
	case bridge == "":
		return errors.New("bridge is missing")
	case len(subnets) == 0:
		return errors.New("subnets is empty")
	case len(gateways) != len(subnets):
		return fmt.Errorf("%d gateways for %d subnets", len(gateways), len(subnets))
	case mtu <= 0:
		return fmt.Errorf("mtu is %d", mtu)
	}
	for i, subnet := range subnets {
		if !subnet.IsValid() || !subnet.Contains(gateways[i]) {
			return fmt.Errorf("the gateway %s isn't in the subnet %s", gateways[i], subnet)
		}
	}
	return nil
}

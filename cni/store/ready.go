package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
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
	switch {
	case r.Version != ReadyVersion:
		return fmt.Errorf("version is %d, and this program knows %d; agent and plugin are of different releases",
			r.Version, ReadyVersion)
	case r.Bridge == "":
		return errors.New("bridge is missing")
	case len(r.Subnets) == 0:
		return errors.New("subnets is empty")
	case len(r.Gateways) != len(r.Subnets):
		return fmt.Errorf("%d gateways for %d subnets", len(r.Gateways), len(r.Subnets))
	case r.MTU <= 0:
		return fmt.Errorf("mtu is %d", r.MTU)
	}
	for i, subnet := range r.Subnets {
		if !subnet.IsValid() || !subnet.Contains(r.Gateways[i]) {
			return fmt.Errorf("the gateway %s isn't in the subnet %s", r.Gateways[i], subnet)
		}
	}
	return nil
}

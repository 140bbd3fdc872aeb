package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"

	"github.com/google/renameio/v2"

	"github.com/weaveguard/weaveguard/mesh/aside"
)

const cacheVersion = 1

// maxCache is the largest cache that is read, in bytes: gossip's 8,192 nodes need a fifth of it for their records, and with
// maxCachedDocuments bytes of documents two thirds in all. Those that there is no room for are asked for again.
const (
	maxCache           = 64 << 20
	maxCachedDocuments = 20 << 20
	// maxCachedCIDRs is how many pod CIDRs are kept that were ever seen: two of each of 8,192 nodes, and four times as many of nodes
	// that are gone. Of more none is dropped, as it would be open then, and none is added.
	maxCachedCIDRs = 5 * 2 * 8192
)

// Remembered is what the agent keeps on disk of the mesh, so that one that starts while others, or the API server,
// are away goes on with what was verified before. It holds no secret.
type Remembered struct {
	Version int                         `json:"version"`
	Self    RememberedSelf              `json:"self"`
	Nodes   map[string]RememberedRecord `json:"nodes"`
	// PodCIDRs are all that were ever seen, those of Nodes that are gone too: they fail closed for good.
	PodCIDRs []netip.Prefix `json:"podCIDRs"`
	// PodRanges are the configured ones, and PodRangeSource where they came from.
	PodRanges      []netip.Prefix `json:"podRanges,omitempty"`
	PodRangeSource string         `json:"podRangeSource,omitempty"`
	// NodeAddresses are those of all Nodes that Kubernetes had last, sorted: pods don't reach the agents there.
	NodeAddresses []netip.Addr `json:"nodeAddresses,omitempty"`
	// Paths is what the ways to nodes carry, in bytes, where probes found that it is less than it seems to.
	Paths map[netip.Addr]int `json:"paths,omitempty"`
	// Document is this node's own, as it was signed.
	Document []byte `json:"document,omitempty"`
	// Forgotten are identities that operators had forgotten on this node.
	Forgotten []Forgotten `json:"forgotten,omitempty"`
}

// RememberedSelf is what Kubernetes said of this node last.
type RememberedSelf struct {
	Node      string         `json:"node"`
	PodCIDRs  []netip.Prefix `json:"podCIDRs"`
	Addresses []netip.Addr   `json:"addresses"`
	Endpoint  netip.Addr     `json:"endpoint,omitzero"` // what peers send to instead, if set
	Age       int64          `json:"age"`
}

// RememberedRecord is a record that counted, as it was signed.
type RememberedRecord struct {
	Raw  []byte     `json:"record"`
	Age  int64      `json:"age"`
	From netip.Addr `json:"from,omitzero"` // whom it came from first, if that is known
	// Document is the one in force, as it was signed: the record's, or one before that.
	Document []byte `json:"document,omitempty"`
}

// Recall reads the cache. One that isn't there is empty; one that can't be used gives an error, is put aside (see aside.Put), and
// is empty too: records and documents are heard again from the others.
func Recall(path string) (Remembered, error) {
	r, err := recall(path)
	if err == nil {
		return r, nil
	}
	as, errAside := aside.Put(path)
	if errAside != nil {
		err = errors.Join(err, errAside)
	} else {
		err = fmt.Errorf("%w; it is %s now, and another one is made from gossip", err, as)
	}
	return Remembered{Version: cacheVersion, Nodes: map[string]RememberedRecord{}}, err
}

func recall(path string) (Remembered, error) {
	r := Remembered{Version: cacheVersion}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err == nil && info.Size() > maxCache:
		return r, fmt.Errorf("the view cache %s has %d bytes, and at most %d are read", path, info.Size(), maxCache)
	default:
		raw, err := os.ReadFile(path)
		if err != nil {
			return r, fmt.Errorf("reading the view cache: %w", err)
		}
		r = Remembered{}
		if err := json.Unmarshal(raw, &r); err != nil {
			return r, fmt.Errorf("the view cache %s can't be read: %w", path, err)
		}
		if r.Version != cacheVersion {
			return r, fmt.Errorf("the view cache %s has version %d, this agent knows %d", path, r.Version, cacheVersion)
		}
	}
	if r.Nodes == nil {
		r.Nodes = map[string]RememberedRecord{}
	}
	return r, nil
}

// lostCache is what a cache has that isn't heard again from others.
const lostCache = "which identities this node trusts because it heard them first, which it was told to forget, and pod CIDRs of former nodes, " +
	"which fail closed"

func (r Remembered) save(path string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding the view cache: %w", err)
	}
	if len(raw) >= maxCache {
		return fmt.Errorf("the view cache isn't written: it would have %d bytes, and at most %d are read", len(raw)+1, maxCache)
	}
	if err := renameio.WriteFile(path, append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the view cache: %w", err)
	}
	return nil
}

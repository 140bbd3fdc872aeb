package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"

	"github.com/google/renameio/v2"

	"github.com/weaveguard/weaveguard/mesh/aside"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const keptVersion = 1

// kept is what is on disk of the files, for an agent that starts while one of them is bad.
type kept struct {
	Version int                     `json:"version"`
	Files   map[string]view.Network `json:"files"` // last in force, by path
}

// lostKept is what a file that can't be used may have had.
const lostKept = "networks whose own files are bad, or away for a moment, too"

// readKept reads what is on disk; one that can't be used is put aside, as another takes its place.
func (n *Networks) readKept() (kept, error) {
	var k kept
	raw, err := os.ReadFile(n.cfg.Kept)
	if n.cfg.Kept == "" || errors.Is(err, fs.ErrNotExist) {
		return k, nil
	}
	if err != nil {
		err = fmt.Errorf("reading what networks there were: %w", err)
	} else if err = json.Unmarshal(raw, &k); err != nil {
		err = fmt.Errorf("reading what networks there were from %s: %w", n.cfg.Kept, err)
	} else if k.Version != keptVersion {
		err = fmt.Errorf("%s has version %d, and this agent knows %d", n.cfg.Kept, k.Version, keptVersion)
	}
	if err == nil {
		return k, nil
	}
	as, errAside := aside.Put(n.cfg.Kept)
	if errAside != nil {
		return kept{}, errors.Join(err, errAside)
	}
	return kept{}, fmt.Errorf("%w; it is %s now", err, as)
}

// recall takes up what was in force last, as far as it is still valid. A file that isn't there any more has no network.
func (n *Networks) recall() error {
	k, err := n.readKept()
	if err != nil {
		return err
	}
	r := reading{host: host{bridge: n.cfg.Bridge}, inForce: map[string]view.Network{}}
	for path, network := range k.Files {
		valid := errors.Join(record.Network{Name: network.Name, Ranges: network.Ranges, CIDRs: network.CIDRs}.Validate(),
			checkName(network.Name), checkBridge(network.Bridge, r.host))
		if valid == nil {
			valid = r.admit(path, network)
		}
		if valid != nil {
			n.cfg.Log.Warn("a network that there was isn't used", "path", path, "error", valid)
		}
	}
	n.files = r.inForce
	n.missing = map[string]bool{}
	for path := range r.inForce {
		n.missing[path] = true
	}
	n.saved = maps.Clone(k.Files)
	return nil
}

// keep writes what is in force, if that isn't on disk.
func (n *Networks) keep() {
	if n.cfg.Kept == "" || maps.EqualFunc(n.saved, n.files, view.Network.Equal) {
		return
	}
	raw, err := json.Marshal(kept{Version: keptVersion, Files: n.files})
	if err == nil {
		err = renameio.WriteFile(n.cfg.Kept, append(raw, '\n'), 0o600)
	}
	if err != nil {
		if !n.unkept {
			n.cfg.Log.Warn("the networks aren't on disk, for a start while a file of theirs is bad", "error", err)
		}
		n.unkept = true
		return
	}
	n.unkept = false
	n.saved = maps.Clone(n.files)
}

package mesh

import (
	"maps"
	"net/netip"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// probed is what probes found, and of ways that aren't probed yet what an earlier agent of this node found: traffic that
// fits stays as it is when an agent starts.
func (a *Agent) probed() map[netip.Addr]int {
	if a.Paths == nil {
		return nil
	}
	found := a.Paths.MTUs()
	for address, mtu := range a.foundBefore {
		if mtu >= record.MinMTU {
			found[address] = mtu
		}
	}
	return found
}

// follow has the ways of the plan probed, and remembers those that carry less than they seem to.
func (a *Agent) follow(paths []view.Path) {
	if a.Paths == nil {
		return
	}
	a.Paths.Follow(paths)
	narrow := map[netip.Addr]int{}
	for _, path := range paths {
		delete(a.foundBefore, path.Address)
		if path.Found != 0 && path.Found < path.Limit {
			narrow[path.Address] = path.Found
		}
	}
	if !maps.Equal(narrow, a.remembered.Paths) {
		a.remembered.Paths, a.unsaved = narrow, true // the next pass writes it
	}
}

package gossip

import (
	"net/netip"
	"sync"
	"time"
)

const (
	// maxHomes is how many members' addresses are remembered, also of those that are gone: twice as many as can be new
	// at once.
	maxHomes = 2 * maxNewcomers
	// homeAge is for how long, at least, the address of a member that is gone is remembered, as long as there is room.
	homeAge = time.Hour
)

// homes remembers where members are. A member's name belongs to one start of an agent, so its address never changes.
// Whoever says that it does wants its place: memberlist gives it to him once he has said that the member left. The zero
// value remembers nobody. Safe for concurrent use.
type homes struct {
	mu sync.Mutex
	of map[string]home // by member name
}

type home struct {
	addr netip.AddrPort
	seen time.Time
}

// allow reports whether a member may be at an address: none other is remembered.
func (h *homes) allow(name string, addr netip.AddrPort) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	known, ok := h.of[name]
	return !ok || known.addr == addr
}

// keep remembers that a member is at an address now.
func (h *homes) keep(name string, addr netip.AddrPort, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.of == nil {
		h.of = make(map[string]home)
	}
	if _, known := h.of[name]; !known && len(h.of) >= maxHomes {
		h.makeRoom(now)
	}
	h.of[name] = home{addr: addr, seen: now}
}

// makeRoom forgets those that are gone for long, or else the one that was seen first.
func (h *homes) makeRoom(now time.Time) {
	var first string
	for name, known := range h.of {
		if now.Sub(known.seen) >= homeAge {
			delete(h.of, name)
			continue
		}
		if first == "" || known.seen.Before(h.of[first].seen) {
			first = name
		}
	}
	if len(h.of) >= maxHomes {
		delete(h.of, first)
	}
}

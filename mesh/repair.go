package mesh

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// driftInterval is how often the loop looks, between passes, at what somebody may have changed and the kernel tells nobody
// of: peers of tunnels, and some settings.
const driftInterval = time.Second

// maxTold is how many changes or peers the log names at once.
const maxTold = 5

// Some other program may undo what is put right, again and again. So the log takes repairBurst lines of repairs at once and
// repairRate a second for long; metrics count all. While it takes none, the loop rests longest after a repair.
const (
	repairRate  = rate.Limit(0.1)
	repairBurst = 100
)

// Of repairs the status tells those of repairsKept, and at most maxRepairs.
const (
	repairsKept = 10 * time.Minute
	maxRepairs  = 16
)

// keepRepairs notes for the status what was put right.
func (a *Agent) keepRepairs(texts []string, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.repaired == nil {
		a.repaired = make(map[string]view.Repair)
	}
	maps.DeleteFunc(a.repaired, func(_ string, r view.Repair) bool { return now.Sub(r.Last) > repairsKept })
	for _, what := range texts {
		r, again := a.repaired[what]
		if !again {
			r = view.Repair{What: what, First: now}
		}
		r.Last, r.Times = now, r.Times+1
		a.repaired[what] = r
	}
	for len(a.repaired) > maxRepairs {
		delete(a.repaired, latestFirst(a.repaired)[maxRepairs].What)
	}
}

// recentRepairs are what somebody else changed of late.
func (a *Agent) recentRepairs(now time.Time) []view.Repair {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.DeleteFunc(latestFirst(a.repaired), func(r view.Repair) bool { return now.Sub(r.Last) > repairsKept })
}

func latestFirst(repaired map[string]view.Repair) []view.Repair {
	return slices.SortedFunc(maps.Values(repaired), func(x, y view.Repair) int {
		return cmp.Or(y.Last.Compare(x.Last), cmp.Compare(y.Times, x.Times), strings.Compare(x.What, y.What))
	})
}

// narrateRepairs logs what was found changed, and was put right.
func (a *Agent) narrateRepairs(p *pass) {
	if len(p.repairs) == 0 {
		return
	}
	a.keepRepairs(p.repairs, time.Now())
	if p.fought = !a.told.repairs.Allow(); p.fought {
		a.told.unsaid++
		return
	}
	text := few(p.repairs, "; ")
	if a.told.unsaid > 0 {
		a.Log.Warn("repaired again and again: somebody changes what Weaveguard made all the time", "by", text, "unsaid", a.told.unsaid)
		a.told.unsaid = 0
		return
	}
	a.Log.Warn("repaired: somebody changed what Weaveguard made", "by", text)
}

// few are the first of many, and how many more there are.
func few(all []string, between string) string {
	text := strings.Join(all[:min(len(all), maxTold)], between)
	if more := len(all) - maxTold; more > 0 {
		text += fmt.Sprintf("%sand %d more", between, more)
	}
	return text
}

// narrateMade logs what was changed as it was wanted, within the bounds of repairs: something may want another thing each second.
func (a *Agent) narrateMade(p *pass) {
	if len(p.made) > 0 && a.told.made.Allow() {
		a.Log.Info("changed as planned", "by", few(p.made, "; "))
	}
}

// drifted looks at what no event tells of, and reports whether a pass has something to repair.
func (a *Agent) drifted(devices []view.DeviceState) bool {
	last := a.last.Load()
	if last == nil || !last.standing {
		return false // then the next pass comes soon
	}
	own := make(map[uint32]keys.PublicKey)
	for _, g := range last.view.Self.Generations {
		own[g.Number] = g.Key
	}
	return !hold(devices, last.desired.Devices, own) || a.Network.Astray(last.desired.Sysctls)
}

// hold reports whether devices have the keys, ports and peers that they should have; own are this node's keys by generation.
func hold(states []view.DeviceState, devices []view.Device, own map[uint32]keys.PublicKey) bool {
	for _, d := range devices {
		i := slices.IndexFunc(states, func(s view.DeviceState) bool { return s.Name == d.Name })
		if i < 0 || states[i].PublicKey != own[d.Generation] || states[i].ListenPort != d.ListenPort || len(states[i].Peers) != len(d.Peers) {
			return false
		}
		allowed := make(map[keys.PublicKey]int, len(d.Peers))
		for _, s := range states[i].Peers {
			allowed[s.PublicKey] = s.AllowedIPs
		}
		for _, peer := range d.Peers {
			if n, known := allowed[peer.PublicKey]; !known || n != len(peer.AllowedIPs) {
				return false
			}
		}
	}
	return true
}

package mesh

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// driftInterval is how often the loop looks, between passes, at what somebody may have changed and the kernel tells nobody
// of: peers of tunnels, and some settings.
const driftInterval = time.Second

// maxTold is how many changes that were put right the log names at once.
const maxTold = 5

// part is what one step of a pass applies, so that what it changes although nothing else was wanted before is a repair.
type part struct {
	all  func(d view.Desired) any // nil: what the step changes never is a repair
	made func(d view.Desired) any // what the step makes where it is missing; nil: the same
}

// tunnels are the devices.
func tunnels() part {
	return part{
		// Without what changes by itself.
		all: func(d view.Desired) any {
			devices := slices.Clone(d.Devices)
			for i := range devices {
				devices[i].Peers = slices.Clone(devices[i].Peers)
				for j := range devices[i].Peers {
					devices[i].Peers[j].Attempt, devices[i].Peers[j].Established = 0, false
				}
			}
			return devices
		},
		// A peer that was removed has no session, so less is wanted of it than before.
		made: func(d view.Desired) any {
			var made []string
			for _, device := range d.Devices {
				made = append(made, device.Name)
				for _, peer := range device.Peers {
					made = append(made, fmt.Sprint(peer.PublicKey, peer.AllowedIPs))
				}
			}
			return made
		},
	}
}

// step runs one part of a pass, and keeps what it put right.
func (a *Agent) step(ctx context.Context, p *pass, what string, of part, do func(context.Context) (int, error)) {
	ctx, changes := view.WithChanges(ctx)
	writes, err := do(ctx)
	p.writes += writes
	if err != nil {
		p.fail(what, err)
	}
	last := a.last.Load()
	if of.all == nil || last == nil || !last.standing || len(changes.Made)+len(changes.Texts) == 0 {
		return
	}
	same := func(part func(view.Desired) any) bool { return reflect.DeepEqual(part(last.desired), part(p.desired)) }
	whole := same(of.all)
	if whole || of.made != nil && same(of.made) {
		p.repairs = append(p.repairs, changes.Made...)
	}
	if whole {
		p.repairs = append(p.repairs, changes.Texts...)
	}
}

// narrateRepairs logs what was found changed, and was put right.
func (a *Agent) narrateRepairs(p *pass) {
	if len(p.repairs) == 0 {
		return
	}
	texts := p.repairs[:min(len(p.repairs), maxTold)]
	text := strings.Join(texts, "; ")
	if more := len(p.repairs) - len(texts); more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	a.Log.Warn("repaired: somebody changed what Weaveguard made", "by", text)
}

// drifted looks at what no event tells of, and reports whether a pass has something to repair.
func (a *Agent) drifted(ctx context.Context, devices []view.DeviceState) bool {
	last := a.last.Load()
	if last == nil || !last.standing {
		return false // then the next pass comes soon
	}
	return !hold(devices, last.desired.Devices) || a.Network.Astray(last.desired.Sysctls)
}

// hold reports whether devices have the keys, ports and peers that they should have.
func hold(states []view.DeviceState, devices []view.Device) bool {
	for _, d := range devices {
		i := slices.IndexFunc(states, func(s view.DeviceState) bool { return s.Name == d.Name })
		if i < 0 || states[i].ListenPort != d.ListenPort || len(states[i].Peers) != len(d.Peers) {
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

package mesh

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// apply makes the kernel as desired. The order keeps it closed and whole: rules before anything can pass them, a
// tunnel's addresses and settings before its peers, routes when all that they lead to stands, and tunnels removed when
// none does any more. One part's failure doesn't keep the others from being tried.
func (a *Agent) apply(ctx context.Context, p *pass) {
	d := p.desired
	steps := []struct {
		what    string
		tunnels bool
		of      part
		do      func(ctx context.Context) (int, error)
	}{
		{"firewall", false, part{all: func(d view.Desired) any { return d.Firewall }},
			func(ctx context.Context) (int, error) { return a.Firewall.Apply(ctx, d.Firewall) }},
		{"bridge", false, part{all: func(d view.Desired) any { return d.Bridges }},
			func(ctx context.Context) (int, error) { return a.Network.ApplyBridges(ctx, d.Bridges) }},
		{"kernel settings", false, part{all: func(d view.Desired) any { return d.Sysctls }},
			func(ctx context.Context) (int, error) { return a.Network.ApplySysctls(ctx, d.Sysctls) }},
		{"tunnels", true, tunnels(), func(ctx context.Context) (int, error) { return a.Tunnels.Make(ctx, d.Devices) }},
		{"tunnel addresses", true, tunnels(), func(ctx context.Context) (int, error) { return a.Network.ApplyDevices(ctx, d.Devices) }},
		{"peers", true, tunnels(), func(ctx context.Context) (int, error) { return a.Tunnels.Apply(ctx, d.Devices) }},
		{"paths", true, part{}, func(ctx context.Context) (int, error) { return a.Network.ApplyPaths(ctx, d.Paths) }},
		{"routes", true, part{all: func(d view.Desired) any { return d.Routes }}, func(ctx context.Context) (int, error) {
			writes, err := a.Network.ApplyRoutes(ctx, d.Routes)
			p.routed = err == nil
			return writes, err
		}},
		{"old tunnels", true, part{}, func(ctx context.Context) (int, error) { return a.prune(ctx, p) }},
	}
	for _, s := range steps {
		if !p.settling || !s.tunnels {
			a.step(ctx, p, s.what, s.of, s.do)
		}
	}
	p.standing = !p.failed && !p.settling
	p.sound = !p.blind && len(p.stood) == len(steps)
	a.attach(ctx, p)
}

// prune removes the tunnels that aren't desired, unless a route may still lead to one.
func (a *Agent) prune(ctx context.Context, p *pass) (int, error) {
	if !p.routed {
		return 0, nil
	}
	writes, err := a.Tunnels.Prune(ctx, p.desired.Devices)
	p.pruned = err == nil
	if writes > 0 {
		a.forgetting = forgetPasses
	}
	return writes, err
}

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
					peer := &devices[i].Peers[j]
					peer.Attempt, peer.Established, peer.Disowned = 0, false, time.Time{}
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
	} else {
		p.stood = append(p.stood, what)
	}
	last := a.last.Load()
	if of.all == nil || last == nil || !slices.Contains(last.stood, what) || len(changes.Made)+len(changes.Texts) == 0 {
		p.made = slices.Concat(p.made, changes.Made, changes.Texts)
		return
	}
	before := len(p.repairs)
	same := func(part func(view.Desired) any) bool { return reflect.DeepEqual(part(last.desired), part(p.desired)) }
	whole := same(of.all)
	if whole || of.made != nil && same(of.made) {
		p.repairs = append(p.repairs, changes.Made...)
	} else {
		p.made = append(p.made, changes.Made...)
	}
	if whole {
		p.repairs = append(p.repairs, changes.Texts...)
	} else {
		p.made = append(p.made, changes.Texts...)
	}
	if n := len(p.repairs) - before; n > 0 {
		p.repaired = added(p.repaired, map[string]uint64{what: uint64(n)})
	}
}

// attach opens the node for pods once everything stands. What failed later doesn't close it again: the pods that
// run would gain nothing by it.
func (a *Agent) attach(ctx context.Context, p *pass) {
	standing := a.ready || !p.failed && !p.settling
	if p.desired.Ready != nil && !standing {
		return
	}
	if p.desired.Ready != nil {
		p.desired.Ready.Networks = a.readyNetworks(p)
	}
	var err error
	a.step(ctx, p, "CNI files", part{all: func(d view.Desired) any { return d.Ready }}, func(ctx context.Context) (writes int, _ error) {
		writes, err = a.Attach.Apply(ctx, p.desired.Ready)
		return writes, err
	})
	a.ready = p.desired.Ready != nil && (a.ready || err == nil)
	p.open = a.ready && a.Attach.Open() != nil // it may have been closed for pods of another pod CIDR
}

// readyNetworks are the networks that pods can be attached to: those that are new, or others than they were, once everything
// stands. What fails later doesn't close those that were open.
func (a *Agent) readyNetworks(p *pass) []view.ReadyNetwork {
	if p.standing {
		a.open = p.desired.Ready.Networks
		return a.open
	}
	return slices.DeleteFunc(slices.Clone(p.desired.Ready.Networks), func(n view.ReadyNetwork) bool {
		return !slices.ContainsFunc(a.open, func(o view.ReadyNetwork) bool {
			return o.Name == n.Name && o.Bridge == n.Bridge && slices.Equal(o.Subnets, n.Subnets) && slices.Equal(o.Reached, n.Reached)
		})
	})
}

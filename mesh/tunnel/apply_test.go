package tunnel_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// step is a plan, and how many writes it takes to get there from the step before.
type step struct {
	plan   []view.Device
	writes int
}

const (
	endB  = "192.0.2.2:51820"
	endB2 = "192.0.2.22:51820"
	endC  = "192.0.2.3:51820"
	sixB  = "[2001:db8::2]:51820"
	cidrB = "10.32.2.0/24"
	cidrC = "10.32.3.0/24"
	cidrD = "10.32.4.0/24"
	cidr6 = "fd00:2::/64"
)

// fresh is what a new device takes, without its peers: the interface, its key, its port.
const fresh = 3

// removed is what it takes to remove a device: its key, and the interface.
const removed = 2

func plan(devices ...view.Device) []view.Device { return devices }

func with[T any](value T, change func(*T)) T {
	change(&value)
	return value
}

// attempt is a peer that waits for its session.
func attempt(n int, node, endpoint string, allowed ...string) view.Peer {
	return with(peer(node, endpoint, allowed...), func(p *view.Peer) { p.Attempt = n })
}

var applyTests = []struct {
	name  string
	steps []step
}{
	{"nothing", []step{{plan(), 0}}},
	{"a device comes and goes", []step{
		{plan(device(peer("b", endB, cidrB, cidr6), peer("c", endC, cidrC))), fresh + 2},
		{plan(), removed},
	}},
	{"a second device comes and goes", []step{
		{plan(device(peer("b", endB, cidrB))), fresh + 1},
		{plan(device(peer("b", endB, cidrB)), with(device(peer("c", endC, cidrC)), func(d *view.Device) {
			d.Name, d.ListenPort, d.Generation = contract.DeviceName(3), 51823, 1
		})), fresh + 1},
		{plan(device(peer("b", endB, cidrB))), removed},
	}},
	{"peers come and go", []step{
		{plan(device()), fresh},
		{plan(device(peer("b", endB, cidrB))), 1},
		{plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC))), 1},
		{plan(device(peer("c", endC, cidrC))), 1},
	}},
	{"an endpoint changes", []step{
		{plan(device(peer("b", "", cidrB))), fresh + 1},
		{plan(device(peer("b", endB, cidrB))), 1},
		{plan(device(peer("b", endB2, cidrB))), 1},
		{plan(device(peer("b", sixB, cidrB))), 1},
	}},
	{"keepalive changes", []step{
		{plan(device(peer("b", endB, cidrB))), fresh + 1},
		{plan(device(with(peer("b", endB, cidrB), func(p *view.Peer) { p.Keepalive = time.Second }))), 1},
		{plan(device(with(peer("b", endB, cidrB), func(p *view.Peer) { p.Keepalive = 0 }))), 1},
	}},
	{"the handshake is started afresh", []step{
		{plan(device(peer("b", endB, cidrB, cidr6), peer("c", endC, cidrC))), fresh + 2},
		{plan(device(attempt(1, "b", endB, cidrB, cidr6), peer("c", endC, cidrC))), 2},
		{plan(device(attempt(3, "b", endB, cidrB, cidr6), peer("c", endC, cidrC))), 2},
		{plan(device(attempt(0, "b", endB, cidrB, cidr6), peer("c", endC, cidrC))), 0},
	}},
	{"the key changes", []step{
		{plan(device(peer("b", endB, cidrB))), fresh + 1},
		{plan(with(device(peer("b", endB, cidrB)), func(d *view.Device) { d.Generation = 1 })), 2}, // its peers begin anew
	}},
	{"the port changes", []step{
		{plan(device(peer("b", endB, cidrB))), fresh + 1},
		{plan(with(device(peer("b", endB, cidrB)), func(d *view.Device) { d.ListenPort = 61820 })), 1},
	}},
	{"allowed IPs come and go", []step{
		{plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC))), fresh + 2},
		{plan(device(peer("b", endB, cidrB, cidrD, cidr6), peer("c", endC, cidrC))), 1},
		{plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC))), 1},
		{plan(device(peer("b", endB), peer("c", endC))), 1},
	}},
	{"allowed IPs move to a later peer", []step{
		{plan(device(peer("b", endB, cidrB, cidrD), peer("c", endC, cidrC))), fresh + 2},
		{plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC, cidrD))), 1},
	}},
	{"allowed IPs move to an earlier peer", []step{
		{plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC, cidrD))), fresh + 2},
		{plan(device(peer("b", endB, cidrB, cidrD), peer("c", endC, cidrC))), 1},
	}},
	{"two peers swap", []step{
		{plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC))), fresh + 2},
		{plan(device(peer("b", endB, cidrC), peer("c", endC, cidrB))), 2},
	}},
	{"some move and some go", []step{
		{plan(device(peer("b", endB, cidrB, cidrD, cidr6), peer("c", endC, cidrC))), fresh + 2},
		{plan(device(peer("b", endB, cidrB), peer("c", endC, cidrD))), 2},
	}},
	{"a node comes back with another key", []step{
		{plan(device(peer("b", endB, cidrB, cidr6))), fresh + 1},
		{plan(device(with(peer("b", endB, cidrB, cidr6), func(p *view.Peer) { p.PublicKey = public("b again") }))), 2},
	}},
	{"a node gets what a removed one had", []step{
		{plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC))), fresh + 2},
		{plan(device(peer("c", endC, cidrC, cidrB))), 2},
	}},
	{"other ways to write the same", []step{
		{plan(device(peer("b", endB, "10.32.2.7/24", "fd00:2::7/64"))), fresh + 1},
		{plan(device(peer("b", "[::ffff:192.0.2.2]:51820", cidr6, cidrB))), 0},
	}},
	{"many", []step{
		{plan(device(many(300)...)), fresh + 300},
		{plan(device(many(301)...)), 1},
		{plan(device(many(299)...)), 2},
	}},
}

func many(n int) []view.Peer {
	var peers []view.Peer
	for i := range n {
		peers = append(peers, peer(fmt.Sprint("node", i), endB, fmt.Sprintf("10.%d.%d.0/24", 64+i/256, i%256)))
	}
	return peers
}

// Each plan is reached by the writes that it takes, and then nothing is written any more: neither by the agent that
// did it, nor by one that has just started.
func TestApply(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w world) {
		for _, tt := range applyTests {
			t.Run(tt.name, func(t *testing.T) {
				private := privates(t)
				agent := w.agent(t, private)
				for _, step := range tt.steps {
					w.mustApply(t, agent, step.plan, step.writes)
					w.mustHold(t, private, step.plan)
					w.mustApply(t, agent, step.plan, 0)
					w.mustApply(t, w.agent(t, private), step.plan, 0)
				}
				w.clear(t)
			})
		}
	})
}

// A device that is there already is taken over; what doesn't belong on it goes.
func TestApplyAdopts(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w world) {
		private := privates(t)
		name := contract.DeviceName(0)
		if err := w.maker.Make(t.Context(), name, 1420); err != nil {
			t.Fatal(err)
		}
		own, _ := private(0)
		secret, port := wgtypes.Key(own.Bytes()), 51820
		_, netB, _ := net.ParseCIDR(cidrB)
		_, netD, _ := net.ParseCIDR(cidrD)
		err := w.put(name, wgtypes.Config{PrivateKey: &secret, ListenPort: &port, Peers: []wgtypes.PeerConfig{
			{PublicKey: wgtypes.Key(public("c")), AllowedIPs: []net.IPNet{*netD}},
			{PublicKey: wgtypes.Key(public("stranger")), AllowedIPs: []net.IPNet{*netB}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		want := plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC)))
		w.mustApply(t, w.agent(t, private), want, 4) // add b, change c, remove the stranger, take D from c
		w.mustHold(t, private, want)
	})
}

// A preshared key that somebody gave a peer is taken away while its session still lasts.
func TestApplyTakesPresharedKey(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w world) {
		private := privates(t)
		agent, want := w.agent(t, private), plan(device(peer("b", endB, cidrB)))
		w.mustApply(t, agent, want, fresh+1)
		shared := wgtypes.Key{1}
		err := w.put(contract.DeviceName(0), wgtypes.Config{Peers: []wgtypes.PeerConfig{
			{PublicKey: wgtypes.Key(public("b")), UpdateOnly: true, PresharedKey: &shared},
		}})
		if err != nil {
			t.Fatal(err)
		}
		w.mustApply(t, agent, want, 1)
		w.mustHold(t, private, want)
		if got := w.show(t, contract.DeviceName(0)).Peers[0].PresharedKey; got != (wgtypes.Key{}) {
			t.Error("the peer still has a preshared key")
		}
	})
}

// A device is made without its peers, and they come later; one that isn't desired stays until it is pruned, and its key
// is erased before it goes.
func TestMakeAndPrune(t *testing.T) {
	inEachWorld(t, func(t *testing.T, w world) {
		private := privates(t)
		agent := w.agent(t, private)
		one := plan(device(peer("b", endB, cidrB)))
		two := append(slices.Clone(one), with(device(peer("c", endC, cidrC)), func(d *view.Device) {
			d.Name, d.ListenPort, d.Generation = contract.DeviceName(3), 51823, 1
		}))
		if n, err := agent.Make(t.Context(), two); n != 2*fresh || err != nil {
			t.Errorf("Make made %d changes (%v), want %d", n, err, 2*fresh)
		}
		for _, d := range two {
			if shown := w.show(t, d.Name); len(shown.Peers) != 0 || shown.ListenPort != int(d.ListenPort) {
				t.Errorf("%s has %d peers and port %d before Apply", d.Name, len(shown.Peers), shown.ListenPort)
			}
		}
		if n, err := agent.Make(t.Context(), two); n != 0 || err != nil {
			t.Errorf("Make again made %d changes (%v)", n, err)
		}
		w.mustApply(t, agent, two, 2)
		if n, err := agent.Apply(t.Context(), one); n != 0 || err != nil {
			t.Errorf("Apply made %d changes (%v) where only a device is too many", n, err)
		}
		w.mustHold(t, private, two)
		if w.fake != nil {
			erased := false
			w.fake.Fail = func(_ string, config wgtypes.Config) error {
				erased = erased || config.PrivateKey != nil && *config.PrivateKey == wgtypes.Key{}
				if !erased {
					return errors.New("it is removed with its key")
				}
				return nil
			}
		}
		if n, err := agent.Prune(t.Context(), one); n != removed || err != nil {
			t.Errorf("Prune made %d changes (%v), want %d", n, err, removed)
		}
		if n, err := agent.Prune(t.Context(), one); n != 0 || err != nil {
			t.Errorf("Prune again made %d changes (%v)", n, err)
		}
		w.mustHold(t, private, one)
	})
}

func (w world) mustApply(t *testing.T, agent *tunnel.Applier, plan []view.Device, want int) {
	t.Helper()
	before := w.writes.Load()
	got, err := agent.Apply(t.Context(), plan)
	if err != nil {
		t.Fatalf("Apply: %v", err)
	}
	pruned, err := agent.Prune(t.Context(), plan)
	if err != nil {
		t.Fatalf("Prune: %v", err)
	}
	got += pruned
	if got != want {
		t.Errorf("Apply says that it made %d changes, want %d", got, want)
	}
	if made := int(w.writes.Load() - before); made != got {
		t.Errorf("Apply says that it made %d changes, and made %d", got, made)
	}
}

// mustHold checks that the devices are those of the plan.
func (w world) mustHold(t *testing.T, private func(uint32) (keys.PrivateKey, bool), plan []view.Device) {
	t.Helper()
	names, err := w.maker.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(names) != len(plan) {
		t.Errorf("the devices are %v, want %d", names, len(plan))
	}
	for _, planned := range plan {
		shown := w.show(t, planned.Name)
		if diff := cmp.Diff(normal(planned), asPlanned(planned, shown), cmp.Comparer(sameText[netip.Prefix]),
			cmp.Comparer(sameText[netip.AddrPort])); diff != "" {
			t.Errorf("device %s (-plan +WireGuard):\n%s", planned.Name, diff)
		}
		if own, _ := private(planned.Generation); keys.PublicKey(shown.PublicKey) != own.Public() {
			t.Errorf("device %s hasn't the key of generation %d", planned.Name, planned.Generation)
		}
	}
}

func sameText[T fmt.Stringer](a, b T) bool { return a.String() == b.String() }

func (w world) clear(t *testing.T) {
	t.Helper()
	names, err := w.maker.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if err := w.maker.Remove(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
}

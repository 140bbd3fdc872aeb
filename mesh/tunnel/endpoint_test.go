package tunnel_test

import (
	"net/netip"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// When an endpoint is written over that of a live peer. Each row starts with an agent that wants endB, and WireGuard
// that knows the peer by another endpoint, of a handshake of some age.
func TestEndpointOfLivePeer(t *testing.T) {
	const roamed = "198.51.100.9:40000"
	const never = -1
	tests := []struct {
		name      string
		handshake time.Duration // its age
		restart   bool          // the agent starts again before the plan comes
		plan      string
		want      string
		writes    int
	}{
		{name: "roamed, and nothing else changed", handshake: time.Minute, plan: endB, want: roamed},
		{name: "roamed, and the agent starts again", handshake: time.Minute, restart: true, plan: endB, want: roamed},
		{name: "roamed just not too long ago", handshake: 179 * time.Second, plan: endB, want: roamed},
		{name: "roamed, and the record changed", handshake: time.Minute, plan: endB2, want: endB2, writes: 1},
		{name: "roamed to where the record says now", handshake: time.Minute, plan: roamed, want: roamed},
		{name: "roamed, and the record lost its endpoint", handshake: time.Minute, plan: "", want: roamed},
		{name: "roamed, then silent", handshake: 181 * time.Second, plan: endB, want: endB, writes: 1},
		{name: "roamed, then silent, agent starts again", handshake: time.Hour, restart: true, plan: endB, want: endB, writes: 1},
		{name: "never heard of, agent starts again", handshake: never, restart: true, plan: endB, want: endB, writes: 1},
		{name: "record changed while the agent was away, and the session lives", handshake: time.Minute, restart: true,
			plan: endB2, want: roamed},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, private := fakeWorld(t), privates(t)
			agent := w.agent(t, private)
			w.mustApply(t, agent, plan(device(peer("b", endB, cidrB))), fresh+1)
			var at time.Time
			if tt.handshake != never {
				at = time.Now().Add(-tt.handshake)
			}
			err := w.fake.Handshake(contract.DeviceName(0), wgtypes.Key(public("b")), at, netip.MustParseAddrPort(roamed))
			if err != nil {
				t.Fatal(err)
			}
			if tt.restart {
				agent = w.agent(t, private)
			}
			planned := plan(device(peer("b", tt.plan, cidrB)))
			w.mustApply(t, agent, planned, tt.writes)
			w.mustApply(t, agent, planned, 0)
			if got := w.show(t, contract.DeviceName(0)).Peers[0].Endpoint.String(); got != tt.want {
				t.Errorf("the endpoint is %s, want %s", got, tt.want)
			}
		})
	}
}

// A write that failed isn't remembered as done.
func TestEndpointIsWrittenAgainAfterAFailure(t *testing.T) {
	w, private := fakeWorld(t), privates(t)
	agent := w.agent(t, private)
	w.mustApply(t, agent, plan(device(peer("b", endB, cidrB))), fresh+1)
	err := w.fake.Handshake(contract.DeviceName(0), wgtypes.Key(public("b")), time.Now(), netip.MustParseAddrPort(endB))
	if err != nil {
		t.Fatal(err)
	}
	w.fake.Fail = func(string, wgtypes.Config) error { return errBroken }
	planned := plan(device(peer("b", endB2, cidrB)))
	if _, err := agent.Apply(t.Context(), planned); err == nil {
		t.Fatal("no error of a write that failed")
	}
	w.fake.Fail = nil
	w.mustApply(t, agent, planned, 1)
	w.mustHold(t, private, planned)
}

// A session is given up that the peer has lost, and no later one: for a handshake since then the peer isn't removed.
func TestDisownedSession(t *testing.T) {
	w, private := fakeWorld(t), privates(t)
	agent := w.agent(t, private)
	w.mustApply(t, agent, plan(device(peer("b", endB, cidrB))), fresh+1)
	shake := func(age time.Duration) time.Time {
		at := time.Now().Add(-age)
		if err := w.fake.Handshake(contract.DeviceName(0), wgtypes.Key(public("b")), at, netip.MustParseAddrPort(endB)); err != nil {
			t.Fatal(err)
		}
		return at
	}
	disowned := func(attempt int, at time.Time) view.Device {
		return device(with(peer("b", endB, cidrB), func(p *view.Peer) { p.Attempt, p.Disowned = attempt, at }))
	}
	lost := shake(time.Minute)
	later := shake(time.Second)
	w.mustApply(t, agent, plan(disowned(1, lost)), 0)
	w.mustApply(t, agent, plan(disowned(2, later)), 2)
	if left := w.show(t, contract.DeviceName(0)).Peers[0].LastHandshakeTime; !left.IsZero() {
		t.Errorf("the handshake of %s is left", left)
	}
}

// What is seen of the devices.
func TestObserve(t *testing.T) {
	w, private := fakeWorld(t), privates(t)
	agent := w.agent(t, private)
	if states, err := agent.Observe(t.Context()); err != nil || len(states) != 0 {
		t.Fatalf("Observe without devices: %v, %v", states, err)
	}
	w.mustApply(t, agent, plan(device(peer("b", endB, cidrB), peer("c", "", cidrC))), fresh+2)
	at := time.Now().Add(-time.Minute)
	if err := w.fake.Handshake(contract.DeviceName(0), wgtypes.Key(public("b")), at, netip.MustParseAddrPort(sixB)); err != nil {
		t.Fatal(err)
	}
	states, err := agent.Observe(t.Context())
	if err != nil || len(states) != 1 {
		t.Fatalf("Observe: %v, %v", states, err)
	}
	own, _ := private(0)
	state := states[0]
	if state.Name != contract.DeviceName(0) || state.Kind != tunnel.Kernel || state.PublicKey != own.Public() ||
		state.ListenPort != 51820 || len(state.Peers) != 2 {
		t.Errorf("the device is seen as %+v", state)
	}
	for _, p := range state.Peers {
		want := view.PeerState{PublicKey: public("c"), AllowedIPs: 1}
		if p.PublicKey == public("b") {
			want = view.PeerState{PublicKey: public("b"), Endpoint: netip.MustParseAddrPort(sixB), LastHandshake: at, AllowedIPs: 1}
		}
		if p != want {
			t.Errorf("a peer is seen as %+v, want %+v", p, want)
		}
	}
}

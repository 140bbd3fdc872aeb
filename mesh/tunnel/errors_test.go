package tunnel_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/tunnel/userspace"
	"github.com/weaveguard/weaveguard/mesh/view"
)

var errBroken = errors.New("broken")

// What can't be made is named, and all else is made.
func TestApplyBadPlan(t *testing.T) {
	other := with(device(peer("c", endC, cidrC)), func(d *view.Device) { d.Name, d.ListenPort = contract.DeviceName(1), 51821 })
	good := peer("c", endC, cidrC)
	tests := []struct {
		name string
		plan func(own keys.PublicKey) []view.Device
		want []string // of the error
		held int      // devices with peer c, after that
	}{
		{"own key", func(own keys.PublicKey) []view.Device {
			return plan(device(with(peer("b", endB, cidrB), func(p *view.Peer) { p.PublicKey = own }), good))
		}, []string{"weave-wg0", "node b", "the key of this node", "copy"}, 1},
		{"one key twice", func(keys.PublicKey) []view.Device {
			return plan(device(good, with(peer("b", endB, cidrB), func(p *view.Peer) { p.PublicKey = good.PublicKey })))
		}, []string{"weave-wg0", "node b", "the key of node c", "copy"}, 1},
		{"no key", func(keys.PublicKey) []view.Device {
			return plan(device(with(peer("b", endB, cidrB), func(p *view.Peer) { p.PublicKey = keys.PublicKey{} }), good))
		}, []string{"weave-wg0", "node b", "no public key"}, 1},
		{"allowed IPs of two", func(keys.PublicKey) []view.Device {
			return plan(device(good, peer("b", endB, cidrB, cidrC)))
		}, []string{"weave-wg0", "node b", cidrC, "node c"}, 1},
		{"endpoint without a port", func(keys.PublicKey) []view.Device {
			return plan(device(peer("b", "192.0.2.2:0", cidrB), good))
		}, []string{"weave-wg0", "node b", "192.0.2.2:0"}, 1},
		{"allowed IPs that aren't", func(keys.PublicKey) []view.Device {
			return plan(device(with(peer("b", endB), func(p *view.Peer) { p.AllowedIPs = []netip.Prefix{{}} }), good))
		}, []string{"weave-wg0", "node b", "allowed IPs"}, 1},
		{"keepalive out of range", func(keys.PublicKey) []view.Device {
			return plan(device(with(peer("b", endB), func(p *view.Peer) { p.Keepalive = -time.Second }), good))
		}, []string{"weave-wg0", "node b", "keepalive", "-1s"}, 1},
		{"generation without a key", func(keys.PublicKey) []view.Device {
			return plan(with(device(good), func(d *view.Device) { d.Generation = 7 }), other)
		}, []string{"weave-wg0", "no key of generation 7"}, 1},
		{"not a tunnel device", func(keys.PublicKey) []view.Device {
			return plan(with(device(good), func(d *view.Device) { d.Name = "eth0" }), other)
		}, []string{"eth0", "weave-wg0 to weave-wg3"}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, private := fakeWorld(t), privates(t)
			agent := w.agent(t, private)
			own, _ := private(0)
			for range 2 { // it doesn't get better by itself, and nothing is written for nothing
				_, err := agent.Apply(t.Context(), tt.plan(own.Public()))
				mustSay(t, err, tt.want...)
			}
			before := w.writes.Load()
			if _, err := agent.Apply(t.Context(), tt.plan(own.Public())); err == nil || w.writes.Load() != before {
				t.Errorf("the third pass made %d changes, and error %v", w.writes.Load()-before, err)
			}
			var held int
			states, _ := agent.Observe(t.Context())
			for _, state := range states {
				for _, p := range state.Peers {
					if p.PublicKey == good.PublicKey {
						held++
					}
				}
			}
			if held != tt.held {
				t.Errorf("%d devices have the good peer, want %d", held, tt.held)
			}
		})
	}
}

// One that fails doesn't keep the others from it, and all is there once it no longer fails.
func TestApplyGoesOn(t *testing.T) {
	planned := plan(device(peer("b", endB, cidrB), peer("c", endC, cidrC)),
		with(device(peer("d", endC, cidrD)), func(d *view.Device) { d.Name, d.ListenPort = contract.DeviceName(1), 51821 }))
	has := func(name string, node string) func(string, wgtypes.Config) bool {
		return func(device string, config wgtypes.Config) bool {
			return device == name && len(config.Peers) > 0 && config.Peers[0].PublicKey == wgtypes.Key(public(node))
		}
	}
	tests := []struct {
		name   string
		fails  func(device string, config wgtypes.Config) bool
		err    error
		want   []string
		writes int // of what doesn't fail
	}{
		{"a device", func(device string, _ wgtypes.Config) bool { return device == "weave-wg0" }, errBroken,
			[]string{"weave-wg0", "making it", "broken"}, fresh + 1},
		{"a key", func(_ string, config wgtypes.Config) bool { return config.PrivateKey != nil }, unix.EPERM,
			[]string{"weave-wg0", "weave-wg1", "private key", "CAP_NET_ADMIN"}, 2},
		{"a port", func(device string, config wgtypes.Config) bool {
			return device == "weave-wg1" && config.ListenPort != nil
		},
			unix.EADDRINUSE, []string{"weave-wg1", "51821", "ss -lunp"}, fresh + 2 + fresh},
		{"a peer", has("weave-wg0", "b"), errBroken, []string{"weave-wg0", "node b", public("b").String(), "broken"},
			fresh + 1 + fresh + 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, private := fakeWorld(t), privates(t)
			agent := w.agent(t, private)
			w.fake.Fail = func(device string, config wgtypes.Config) error {
				if tt.fails(device, config) {
					return tt.err
				}
				return nil
			}
			writes, err := agent.Apply(t.Context(), planned)
			mustSay(t, err, tt.want...)
			if writes != tt.writes || w.fake.Writes() != tt.writes {
				t.Errorf("it says %d changes and made %d, want %d", writes, w.fake.Writes(), tt.writes)
			}
			w.fake.Fail = nil
			if _, err := agent.Apply(t.Context(), planned); err != nil {
				t.Fatal(err)
			}
			w.mustHold(t, private, planned)
		})
	}
}

// A peer loses what it must not have even if the one that should have it can't be added.
func TestAllowedIPsAreTakenThoughTheirNewPeerFails(t *testing.T) {
	w, private := fakeWorld(t), privates(t)
	agent := w.agent(t, private)
	w.mustApply(t, agent, plan(device(peer("b", endB, cidrB, cidrD))), fresh+1)
	w.fake.Fail = func(_ string, config wgtypes.Config) error {
		if config.Peers[0].PublicKey == wgtypes.Key(public("c")) {
			return errBroken
		}
		return nil
	}
	_, err := agent.Apply(t.Context(), plan(device(peer("b", endB, cidrB), peer("c", endC, cidrD))))
	mustSay(t, err, "weave-wg0", "node c", "broken")
	w.mustHold(t, private, plan(device(peer("b", endB, cidrB))))
}

// Nothing that goes out of the applier has the key in it, whatever fails.
func TestPrivateKeyIsNeverShown(t *testing.T) {
	private := privates(t)
	own, _ := private(0)
	secret := own.Bytes()
	var log bytes.Buffer
	w := fakeWorld(t)
	agent := tunnel.New(tunnel.Config{Maker: w.maker, Private: private, Kind: w.kind, Open: w.open,
		Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	planned := plan(device(peer("b", endB, cidrB)))
	w.fake.Fail = func(_ string, config wgtypes.Config) error {
		if config.PrivateKey != nil {
			return errBroken
		}
		return nil
	}
	_, err := agent.Apply(t.Context(), planned)
	mustSay(t, err, "private key")
	w.fake.Fail = nil
	w.mustApply(t, agent, planned, fresh)
	states, observeErr := agent.Observe(t.Context())
	shown := fmt.Sprintf("%v %v %+v %#v", err, observeErr, states, states) + log.String()
	for _, form := range []string{base64.StdEncoding.EncodeToString(secret[:]), hex.EncodeToString(secret[:]),
		fmt.Sprint(secret), string(secret[:])} {
		if strings.Contains(shown, form) {
			t.Errorf("the private key is in what was said: %s", shown)
		}
	}
}

// A device of the other kind isn't touched.
func TestApplyOtherKind(t *testing.T) {
	w, private := fakeWorld(t), privates(t) // of kernel devices
	w.mustApply(t, w.agent(t, private), plan(device()), fresh)
	w.kind = tunnel.Userspace
	_, err := w.agent(t, private).Apply(t.Context(), plan(device(peer("b", endB, cidrB))))
	mustSay(t, err, "weave-wg0", "kernel WireGuard device", "--wireguard=kernel")
}

// Without the daemon it says which socket doesn't answer, and what should be running.
func TestApplyWithoutDaemon(t *testing.T) {
	agent := tunnel.New(tunnel.Config{Maker: userspace.NewClient("/run/nobody.sock"), Private: privates(t),
		Kind: tunnel.Userspace, Log: logOf(t)})
	_, err := agent.Apply(t.Context(), plan(device(peer("b", endB, cidrB))))
	mustSay(t, err, "weave-wg0", "/run/nobody.sock", "weaveguard-userspace")
}

// A port that another program has is named, and the device keeps the one that it had.
func TestPortTaken(t *testing.T) {
	for _, kind := range realKinds(t) {
		t.Run(kind, func(t *testing.T) {
			taken, err := net.ListenPacket("udp", ":0")
			if err != nil {
				t.Fatal(err)
			}
			defer taken.Close()
			port := taken.LocalAddr().(*net.UDPAddr).Port
			w, private := realWorld(t, kind), privates(t)
			agent := w.agent(t, private)
			w.mustApply(t, agent, plan(device(peer("b", endB, cidrB))), fresh+1)
			setUp(t, contract.DeviceName(0))
			want := plan(with(device(peer("b", endB, cidrB)), func(d *view.Device) { d.ListenPort = uint16(port) }))
			_, err = agent.Apply(t.Context(), want)
			mustSay(t, err, "weave-wg0", fmt.Sprintf("port %d is taken", port), "ss -lunp")
			w.mustHold(t, private, plan(device(peer("b", endB, cidrB))))
			taken.Close()
			w.mustApply(t, agent, want, 1)
			w.mustHold(t, private, want)
		})
	}
}

// A pass that is called off stops.
func TestApplyEnds(t *testing.T) {
	w, private := fakeWorld(t), privates(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.agent(t, private).Apply(ctx, plan(device())); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that it was called off", err)
	}
}

func mustSay(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", want)
	}
	for _, part := range want {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error is %q, want that it says %q", err, part)
		}
	}
}

// hanging is WireGuard that doesn't answer until it is let go.
type hanging struct {
	tunnel.Client
	held chan struct{}
	asks *atomic.Int32
}

func (h hanging) Device(name string) (*wgtypes.Device, error) {
	h.asks.Add(1)
	<-h.held
	return h.Client.Device(name)
}

// A daemon that hangs holds up neither the loop nor the end of the agent nor whoever asks for the status, is asked by one at a time,
// and goes on where it was.
func TestDaemonThatHangs(t *testing.T) {
	w, private := fakeWorld(t), privates(t)
	want := plan(device(peer("b", endB, cidrB)))
	w.mustApply(t, w.agent(t, private), want, fresh+1)
	held, asks := make(chan struct{}), atomic.Int32{}
	a := tunnel.New(tunnel.Config{
		Maker: w.maker, Private: private, Kind: w.kind, Log: logOf(t), Within: 20 * time.Millisecond,
		Open: func() (tunnel.Client, error) {
			client, err := w.open()
			return hanging{client, held, &asks}, err
		},
	})
	for range 10 {
		_, err := a.Observe(t.Context())
		if silent := (*tunnel.SilentError)(nil); !errors.As(err, &silent) {
			t.Errorf("looking: %v, want that it doesn't answer", err)
		}
		_, err = a.Apply(t.Context(), want)
		mustSay(t, err, "hasn't answered for 20ms", "restart it")
	}
	over, end := context.WithCancel(t.Context())
	end()
	if _, err := a.Apply(over, want); !errors.Is(err, context.Canceled) {
		t.Errorf("the agent ends, and gets %v", err)
	}
	if n := asks.Load(); n != 1 {
		t.Errorf("%d ask at once", n)
	}
	close(held)
	deadline := time.Now().Add(10 * time.Second)
	for {
		states, err := a.Observe(t.Context())
		if err == nil && len(states) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it answers again: %v, %v", states, err)
		}
	}
}

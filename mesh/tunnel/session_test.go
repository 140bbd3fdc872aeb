package tunnel_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// The two ends of a session. Their devices are in namespaces of their own, and nothing but the tunnel connects those;
// the tunnel's packets go over the loopback of the namespace in which the devices were made.
const (
	nearAddress = "10.99.0.1"
	farAddress  = "10.99.0.2"
	farOther    = "10.99.1.2" // one more of the far end
	otherCIDR   = "10.99.1.0/24"
	nearPort    = 51820
	farPort     = 51830
)

// session is a near end that an applier configures, and a far end that the test does.
type session struct {
	world
	kind    string
	near    netns.NsHandle
	far     netns.NsHandle
	private func(uint32) (keys.PrivateKey, bool)
	agent   *tunnel.Applier
	farKey  keys.PublicKey
	setFar  func(wgtypes.Config) error
}

// startSession makes both ends, connected by WireGuard of a kind.
func startSession(t *testing.T, kind string) *session {
	t.Helper()
	s := &session{kind: kind, near: newNamespace(t), far: newNamespace(t), private: privates(t)}
	s.world = realWorld(t, kind)
	t.Cleanup(func() { removeKernelDevices(t, s.near, s.far) })
	s.world.maker = movingMaker{s.world.maker, s.near}
	s.world.open = func() (tunnel.Client, error) { return clientIn(s.near) }
	s.world = counted(s.world)
	s.agent = s.world.agent(t, s.private)
	s.world.mustApply(t, s.agent, plan(s.device()), fresh)
	configureLink(t, s.near, contract.DeviceName(0), []string{nearAddress}, []string{farAddress, otherCIDR})
	s.startFar(t)
	return s
}

// device is the near device as planned, without or with the far end.
func (s *session) device(peers ...view.Peer) view.Device {
	d := device(peers...)
	d.ListenPort = nearPort
	return d
}

// farPeer is the far end as the near one should have it.
func (s *session) farPeer(endpoint string, allowed ...string) view.Peer {
	p := peer("far", endpoint, allowed...)
	p.PublicKey = s.farKey
	p.Keepalive = time.Second
	return p
}

// startFar makes the far end: by a daemon of its own in userspace, so that the applier sees nothing of it.
func (s *session) startFar(t *testing.T) {
	t.Helper()
	const name = "weave-wg3"
	var maker tunnel.Maker = startDaemon(t)
	if s.kind == tunnel.Kernel {
		maker = kernelMaker{}
	}
	if err := (movingMaker{maker, s.far}).Make(t.Context(), name, 1420); err != nil {
		t.Fatal(err)
	}
	s.setFar = func(config wgtypes.Config) error {
		client, err := clientIn(s.far)
		if err != nil {
			return err
		}
		return errors.Join(client.ConfigureDevice(name, config), client.Close())
	}
	private, err := wgtypes.GeneratePrivateKey()
	if err != nil {
		t.Fatal(err)
	}
	s.farKey = keys.PublicKey(private.PublicKey())
	port, keepalive := farPort, time.Second
	near, _ := s.private(0)
	err = s.setFar(wgtypes.Config{PrivateKey: &private, ListenPort: &port, Peers: []wgtypes.PeerConfig{{
		PublicKey:                   wgtypes.Key(near.Public()),
		Endpoint:                    &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: nearPort},
		PersistentKeepaliveInterval: &keepalive,
		AllowedIPs:                  []net.IPNet{{IP: net.ParseIP(nearAddress), Mask: net.CIDRMask(32, 32)}},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	configureLink(t, s.far, name, []string{farAddress, farOther}, []string{nearAddress})
}

// state is what the near end shows of the far one.
func (s *session) state(t *testing.T) view.PeerState {
	t.Helper()
	states, err := s.agent.Observe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, state := range states {
		for _, p := range state.Peers {
			if p.PublicKey == s.farKey {
				return p
			}
		}
	}
	t.Fatalf("the near end doesn't have the far one: %+v", states)
	return view.PeerState{}
}

func (s *session) awaitHandshake(t *testing.T) view.PeerState {
	t.Helper()
	eventually(t, "the ends shake hands", func() error {
		if s.state(t).LastHandshake.IsZero() {
			return errors.New("no handshake")
		}
		return nil
	})
	return s.state(t)
}

// inEachSession runs a test over all real WireGuards.
func inEachSession(t *testing.T, test func(t *testing.T, s *session)) {
	for _, kind := range realKinds(t) {
		t.Run(kind, func(t *testing.T) { test(t, startSession(t, kind)) })
	}
}

const farEndpoint = "127.0.0.1:51830"

// Two ends shake hands and carry packets. A plan that didn't change writes nothing and leaves the session as it is,
// also by an agent that starts anew.
func TestSessionSurvivesUnchangedPlan(t *testing.T) {
	inEachSession(t, func(t *testing.T, s *session) {
		planned := plan(s.device(s.farPeer(farEndpoint, farAddress+"/32", otherCIDR)))
		s.mustApply(t, s.agent, planned, 1)
		before := s.awaitHandshake(t)
		echo := s.startEcho(t, farAddress)
		echo.await(t, 100)
		for range 20 {
			s.mustApply(t, s.agent, planned, 0)
			s.mustApply(t, s.world.agent(t, s.private), planned, 0)
		}
		echo.await(t, 100)
		echo.mustHaveLostNothing(t)
		after := s.state(t)
		if !after.LastHandshake.Equal(before.LastHandshake) {
			t.Errorf("the handshake of %v was followed by one of %v", before.LastHandshake, after.LastHandshake)
		}
		if after.ReceivedBytes <= before.ReceivedBytes || after.SentBytes <= before.SentBytes {
			t.Errorf("the counters didn't grow: %+v, then %+v", before, after)
		}
	})
}

// An allowed IP is given and taken again and again, and the peer's other traffic doesn't notice. What was taken is
// no longer carried.
func TestTakingAllowedIPLosesNothing(t *testing.T) {
	inEachSession(t, func(t *testing.T, s *session) {
		with := plan(s.device(s.farPeer(farEndpoint, farAddress+"/32", otherCIDR)))
		without := plan(s.device(s.farPeer(farEndpoint, farAddress+"/32")))
		s.mustApply(t, s.agent, with, 1)
		s.awaitHandshake(t)
		if err := s.ask(t, farOther); err != nil {
			t.Fatalf("before its allowed IPs are taken: %v", err)
		}
		echo := s.startEcho(t, farAddress)
		echo.await(t, 1)
		for range 200 {
			s.mustApply(t, s.agent, without, 1)
			s.mustApply(t, s.agent, with, 1)
		}
		s.mustApply(t, s.agent, without, 1)
		echo.await(t, 1)
		echo.mustHaveLostNothing(t)
		t.Logf("%d answers meanwhile", echo.answers.Load())
		if err := s.ask(t, farOther); err == nil {
			t.Error("what was taken from the peer is still carried")
		}
	})
}

// A peer that moved is found where it is, not where its record says, until the record says something new.
func TestRoamingIsLeftAlone(t *testing.T) {
	inEachSession(t, func(t *testing.T, s *session) {
		const movedPort = 51831
		moved := netip.MustParseAddrPort(fmt.Sprint("127.0.0.1:", movedPort))
		planned := plan(s.device(s.farPeer(farEndpoint, farAddress+"/32")))
		s.mustApply(t, s.agent, planned, 1)
		s.awaitHandshake(t)
		port := movedPort
		if err := s.setFar(wgtypes.Config{ListenPort: &port}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "WireGuard follows the peer", func() error {
			if at := s.state(t).Endpoint; at != moved {
				return fmt.Errorf("it is at %s", at)
			}
			return nil
		})
		echo := s.startEcho(t, farAddress)
		echo.await(t, 1)
		s.mustApply(t, s.agent, planned, 0)
		s.mustApply(t, s.world.agent(t, s.private), planned, 0)
		s.mustApply(t, s.agent, plan(s.device(s.farPeer(moved.String(), farAddress+"/32"))), 0)
		if at := s.state(t).Endpoint; at != moved {
			t.Errorf("the endpoint was written over with %s", at)
		}
		echo.await(t, 1)
		echo.mustHaveLostNothing(t)
		s.mustApply(t, s.agent, planned, 1) // the record says something new
		if at := s.state(t).Endpoint.String(); at != farEndpoint && at != moved.String() {
			t.Errorf("the endpoint is %s", at)
		}
	})
}

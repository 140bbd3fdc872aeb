package tunneltest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

// Fake is WireGuard in memory: a maker of devices and a client of them in one. It behaves as the kernel does, and
// refuses what must never happen to live sessions: see refusal. Safe for concurrent use.
type Fake struct {
	// Fail, if set, is asked before each change, and its error returned. Config is zero for making and removing.
	Fail func(device string, config wgtypes.Config) error

	kind wgtypes.DeviceType

	mu      sync.Mutex
	devices map[string]*fakeDevice
	writes  int
	refused []error
}

type fakeDevice struct {
	private wgtypes.Key
	port    int
	mtu     int
	peers   map[wgtypes.Key]*wgtypes.Peer // without allowed IPs
	written map[wgtypes.Key]string        // the endpoint that was last written for a peer
	owners  map[netip.Prefix]wgtypes.Key
}

// NewFake returns a fake without devices.
func NewFake(kind wgtypes.DeviceType) *Fake {
	return &Fake{kind: kind, devices: map[string]*fakeDevice{}}
}

// Writes returns how many changes were made so far.
func (f *Fake) Writes() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.writes
}

// Refused returns all that was refused so far.
func (f *Fake) Refused() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.refused...)
}

// Make makes a device.
func (f *Fake) Make(_ context.Context, name string, mtu int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(name, wgtypes.Config{}); err != nil {
		return err
	}
	if f.devices[name] != nil {
		return f.refuse(fmt.Errorf("making %s, which exists", name))
	}
	f.devices[name] = &fakeDevice{
		mtu: mtu, peers: map[wgtypes.Key]*wgtypes.Peer{}, written: map[wgtypes.Key]string{},
		owners: map[netip.Prefix]wgtypes.Key{},
	}
	f.writes++
	return nil
}

// Remove removes a device.
func (f *Fake) Remove(_ context.Context, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(name, wgtypes.Config{}); err != nil {
		return err
	}
	if f.devices[name] == nil {
		return f.refuse(fmt.Errorf("removing %s, which doesn't exist", name))
	}
	delete(f.devices, name)
	f.writes++
	return nil
}

// List returns the names of the devices.
func (f *Fake) List(context.Context) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.devices)), nil
}

// Device shows a device as WireGuard does: peers and allowed IPs in no order that means anything.
func (f *Fake) Device(name string) (*wgtypes.Device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[name]
	if d == nil {
		return nil, fmt.Errorf("device %s: %w", name, os.ErrNotExist)
	}
	shown := &wgtypes.Device{
		Name: name, Type: f.kind, PrivateKey: d.private, PublicKey: d.private.PublicKey(), ListenPort: d.port,
	}
	for key, peer := range d.peers {
		p := *peer
		for prefix, owner := range d.owners {
			if owner == key {
				p.AllowedIPs = append(p.AllowedIPs, toIPNet(prefix))
			}
		}
		shown.Peers = append(shown.Peers, p)
	}
	return shown, nil
}

// Close does nothing: one fake is the client of all passes.
func (f *Fake) Close() error { return nil }

// ConfigureDevice changes a device as WireGuard does, all of it or nothing, unless it is to be refused.
func (f *Fake) ConfigureDevice(name string, config wgtypes.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.fail(name, config); err != nil {
		return err
	}
	d := f.devices[name]
	if d == nil {
		return fmt.Errorf("device %s: %w", name, os.ErrNotExist)
	}
	if err := d.refusal(config); err != nil {
		return f.refuse(fmt.Errorf("device %s: %w", name, err))
	}
	d.configure(config)
	f.writes++
	return nil
}

// Put configures a device and refuses nothing: for what was there before, and for what others do.
func (f *Fake) Put(name string, config wgtypes.Config) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[name]
	if d == nil {
		return fmt.Errorf("device %s: %w", name, os.ErrNotExist)
	}
	d.configure(config)
	return nil
}

// Handshake makes a peer's session be of a time, and its endpoint where that came from.
func (f *Fake) Handshake(name string, key wgtypes.Key, at time.Time, from netip.AddrPort) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.devices[name]
	if d == nil || d.peers[key] == nil {
		return fmt.Errorf("device %s, peer %s: %w", name, key, os.ErrNotExist)
	}
	d.peers[key].LastHandshakeTime = at
	d.peers[key].Endpoint = toUDPAddr(from)
	return nil
}

func (f *Fake) fail(name string, config wgtypes.Config) error {
	if f.Fail == nil {
		return nil
	}
	return f.Fail(name, config)
}

func (f *Fake) refuse(err error) error {
	err = fmt.Errorf("the fake refuses: %w", err)
	f.refused = append(f.refused, err)
	return err
}

// refusal says why a change must not be made.
func (d *fakeDevice) refusal(config wgtypes.Config) error {
	switch {
	case config.ReplacePeers && config.PrivateKey == nil:
		return errors.New("replacing all peers ends their sessions")
	case config.FirewallMark != nil:
		return errors.New("the firewall mark is the operator's")
	case config.PrivateKey != nil && *config.PrivateKey == d.private:
		return errors.New("the private key is written again")
	case config.ListenPort != nil && *config.ListenPort == d.port:
		return errors.New("the listen port is written again, which binds its socket again")
	case config.PrivateKey == nil && config.ListenPort == nil && len(config.Peers) == 0:
		return errors.New("an empty change")
	}
	for i, peer := range config.Peers {
		if peer.PublicKey != config.Peers[0].PublicKey {
			return errors.New("more than one peer in a change: if it fails, nobody knows whose fault it was")
		}
		if err := d.refusalOfPeer(peer, i > 0); err != nil {
			return fmt.Errorf("peer %s: %w", peer.PublicKey, err)
		}
	}
	return nil
}

// refusalOfPeer says why a change of one peer must not be made. Again: the same change has it already.
func (d *fakeDevice) refusalOfPeer(config wgtypes.PeerConfig, again bool) error {
	current := d.peers[config.PublicKey]
	switch {
	case current == nil && bytes.Equal(config.PublicKey[:], publicOf(d.private)):
		return errors.New("it has the device's own key, which WireGuard ignores")
	case current == nil && again && config.Remove: // a throwaway peer
		return nil
	case current == nil && (config.UpdateOnly || config.Remove):
		return errors.New("it doesn't exist, so WireGuard ignores the change")
	case current == nil:
		return nil
	case again:
		return errors.New("a live peer is changed twice in one change")
	}
	switch {
	case !config.UpdateOnly:
		return errors.New("a live peer is changed without UpdateOnly: had it just gone, half of it would come back")
	case config.ReplaceAllowedIPs:
		return errors.New("replacing the allowed IPs of a live peer drops its packets")
	case config.Remove:
		return nil
	case config.PersistentKeepaliveInterval != nil &&
		*config.PersistentKeepaliveInterval == current.PersistentKeepaliveInterval:
		return errors.New("the keepalive is written again")
	case config.Endpoint != nil && time.Since(current.LastHandshakeTime) < 180*time.Second &&
		config.Endpoint.String() == d.written[config.PublicKey]:
		return errors.New("the endpoint of a peer that roamed is written over")
	case config.PresharedKey != nil && *config.PresharedKey == current.PresharedKey:
		return errors.New("the preshared key is written again")
	case config.PersistentKeepaliveInterval == nil && config.Endpoint == nil && config.PresharedKey == nil && len(config.AllowedIPs) == 0:
		return errors.New("an empty change")
	}
	for _, allowed := range config.AllowedIPs {
		if d.owners[toPrefix(allowed)] == config.PublicKey {
			return fmt.Errorf("the allowed IPs %s are written again", &allowed)
		}
	}
	return nil
}

// configure changes the device as the kernel does (drivers/net/wireguard/netlink.c).
func (d *fakeDevice) configure(config wgtypes.Config) {
	if config.ListenPort != nil {
		d.port = *config.ListenPort
	}
	if config.ReplacePeers {
		clear(d.peers)
		clear(d.owners)
	}
	if config.PrivateKey != nil {
		d.private = *config.PrivateKey
		d.removePeer(d.private.PublicKey())
	}
	for _, peer := range config.Peers {
		d.configurePeer(peer)
	}
}

func (d *fakeDevice) configurePeer(config wgtypes.PeerConfig) {
	if config.Remove {
		d.removePeer(config.PublicKey)
		return
	}
	peer := d.peers[config.PublicKey]
	if peer == nil {
		if config.UpdateOnly || bytes.Equal(config.PublicKey[:], publicOf(d.private)) {
			return // in silence
		}
		peer = &wgtypes.Peer{PublicKey: config.PublicKey, ProtocolVersion: 1}
		d.peers[config.PublicKey] = peer
	}
	if config.ReplaceAllowedIPs {
		maps.DeleteFunc(d.owners, func(_ netip.Prefix, owner wgtypes.Key) bool { return owner == config.PublicKey })
	}
	if config.PresharedKey != nil {
		peer.PresharedKey = *config.PresharedKey
	}
	if config.Endpoint != nil {
		peer.Endpoint = config.Endpoint
		d.written[config.PublicKey] = config.Endpoint.String()
	}
	if config.PersistentKeepaliveInterval != nil {
		peer.PersistentKeepaliveInterval = *config.PersistentKeepaliveInterval
	}
	for _, allowed := range config.AllowedIPs {
		d.owners[toPrefix(allowed)] = config.PublicKey // whoever had it before
	}
}

func (d *fakeDevice) removePeer(key wgtypes.Key) {
	delete(d.peers, key)
	delete(d.written, key)
	maps.DeleteFunc(d.owners, func(_ netip.Prefix, owner wgtypes.Key) bool { return owner == key })
}

func publicOf(private wgtypes.Key) []byte {
	public := private.PublicKey()
	return public[:]
}

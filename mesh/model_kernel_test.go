package mesh

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	wgtunnel "github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// modelDevice is a tunnel device of a node's kernel.
type modelDevice struct {
	n       *modelNode
	number  int
	private wgtypes.Key
	public  keys.PublicKey
	port    int
	peers   []*modelPeer
	owners  [maxModelNodes]*modelPeer // whose the allowed IPs are: the pod CIDR of each node
}

func modelPort(device int) int { return contract.BasePort + device }

// modelDeviceNumber is the number in a device's name.
func modelDeviceNumber(name string) int { return int(name[len(name)-1] - '0') }

func (d *modelDevice) peer(key keys.PublicKey) *modelPeer {
	for _, p := range d.peers {
		if p.key == key {
			return p
		}
	}
	return nil
}

// all are the peers of the device, if there is one.
func (d *modelDevice) all() []*modelPeer {
	if d == nil {
		return nil
	}
	return d.peers
}

// remove takes the device away, and its peers with it.
func (d *modelDevice) remove() {
	for _, p := range d.peers {
		p.gone = true
	}
}

// modelMaker makes the devices of a node.
type modelMaker struct{ *modelNode }

func (m modelMaker) Make(_ context.Context, name string, _ int) error {
	if err := m.write(modelDevices, "making %s", name); err != nil {
		return err
	}
	number := modelDeviceNumber(name)
	m.devices[number] = &modelDevice{n: m.modelNode, number: number}
	m.version++
	return nil
}

func (m modelMaker) Remove(_ context.Context, name string) error {
	if err := m.write(modelDevices, "removing %s", name); err != nil {
		return err
	}
	number := modelDeviceNumber(name)
	m.devices[number].remove()
	m.version++
	m.devices[number], m.w.changed = nil, true
	for i, device := range m.routes { // the kernel removes the routes to it
		if device == number {
			m.routes[i] = noModelRoute
		}
	}
	return nil
}

func (m modelMaker) List(context.Context) ([]string, error) {
	var names []string
	for i, d := range m.devices {
		if d != nil {
			names = append(names, contract.DeviceName(i))
		}
	}
	return names, nil
}

// Device shows a device as wgctrl does.
func (n *modelNode) Device(name string) (*wgtypes.Device, error) {
	d := n.devices[modelDeviceNumber(name)]
	n.looked = n.w.now
	if d == nil {
		return nil, fs.ErrNotExist
	}
	shown := &wgtypes.Device{
		Name: name, Type: wgtypes.LinuxKernel, PrivateKey: d.private, PublicKey: wgtypes.Key(d.public), ListenPort: d.port,
	}
	for _, p := range d.peers {
		peer := wgtypes.Peer{
			PublicKey: wgtypes.Key(p.key), PersistentKeepaliveInterval: p.keepalive, LastHandshakeTime: p.handshake,
			ReceiveBytes: p.received,
		}
		if p.endpoint.IsValid() {
			peer.Endpoint = net.UDPAddrFromAddrPort(p.endpoint)
		}
		for i, owner := range d.owners {
			if owner == p {
				peer.AllowedIPs = append(peer.AllowedIPs, n.w.nodes[i].allowed)
			}
		}
		shown.Peers = append(shown.Peers, peer)
	}
	return shown, nil
}

// Close does nothing: the node is the client of all its passes.
func (n *modelNode) Close() error { return nil }

// ConfigureDevice changes a device as WireGuard does.
func (n *modelNode) ConfigureDevice(name string, config wgtypes.Config) error {
	d := n.devices[modelDeviceNumber(name)]
	if d == nil {
		return fs.ErrNotExist
	}
	var err error
	if what := describeModelConfig(n.w, config); config.ListenPort != nil {
		n.point("%s: %s", name, what) // a device with another port is reached by roaming, which the model hasn't
	} else {
		err = n.write(modelDevices, "%s: %s", name, what)
	}
	if err != nil {
		return err
	}
	n.w.changed = true
	n.version++
	if config.ReplacePeers {
		for _, p := range slices.Clone(d.peers) {
			d.configure(wgtypes.PeerConfig{PublicKey: wgtypes.Key(p.key), Remove: true})
		}
	}
	if config.PrivateKey != nil {
		n.checkKey(d, n.w.keyring.publics[*config.PrivateKey])
		d.setPrivate(*config.PrivateKey)
	}
	if config.ReplacePeers {
		for len(d.peers) > 0 {
			d.dropPeer(d.peers[0])
		}
	}
	if config.ListenPort != nil {
		d.port = *config.ListenPort
	}
	for _, p := range config.Peers {
		d.configure(p)
	}
	return nil
}

// describeModelConfig is a change in few words.
func describeModelConfig(w *modelWorld, config wgtypes.Config) string {
	if !w.tracing {
		return ""
	}
	text := ""
	if config.ReplacePeers {
		text += "no peers, "
	}
	if config.PrivateKey != nil {
		text += "private key of " + w.keyName(w.keyring.publics[*config.PrivateKey])
	}
	if config.ListenPort != nil {
		text += fmt.Sprint("port ", *config.ListenPort)
	}
	for _, p := range config.Peers {
		text += "peer " + w.keyName(keys.PublicKey(p.PublicKey))
		switch {
		case p.Remove:
			text += " removed"
		case !p.UpdateOnly:
			text += " added"
		}
		if p.PersistentKeepaliveInterval != nil {
			text += fmt.Sprint(" keepalive ", *p.PersistentKeepaliveInterval)
		}
		if p.Endpoint != nil {
			text += fmt.Sprint(" endpoint ", p.Endpoint)
		}
		if len(p.AllowedIPs) > 0 {
			text += fmt.Sprint(" allowed IPs ", p.AllowedIPs)
		}
	}
	return text
}

// keyName is whose key it is.
func (w *modelWorld) keyName(key keys.PublicKey) string {
	if owner, known := w.owners[key]; known {
		return fmt.Sprintf("%s/%d", owner.node.name, owner.generation)
	}
	return "nobody"
}

// setPrivate gives the device another key. Its sessions were made with the one before.
func (d *modelDevice) setPrivate(private wgtypes.Key) {
	d.private, d.public = private, d.n.w.keyring.publics[private]
	for _, p := range d.peers {
		p.current, p.previous, p.following, p.pending = nil, nil, nil, 0
	}
}

func (d *modelDevice) configure(config wgtypes.PeerConfig) {
	key := keys.PublicKey(config.PublicKey)
	p := d.peer(key)
	switch {
	case config.Remove && p != nil:
		d.dropPeer(p)
		return
	case config.Remove || p == nil && config.UpdateOnly:
		return
	case p == nil:
		p = newModelPeer(d, key)
		d.peers = append(d.peers, p)
	}
	if config.Endpoint != nil {
		p.endpoint = config.Endpoint.AddrPort()
	}
	for _, allowed := range config.AllowedIPs {
		d.owners[allowed.IP.To4()[2]] = p
	}
	if config.PersistentKeepaliveInterval != nil {
		p.setKeepalive(*config.PersistentKeepaliveInterval)
	}
}

func (d *modelDevice) dropPeer(p *modelPeer) {
	d.n.checkRemoval(p)
	p.gone = true
	for i, owner := range d.owners {
		if owner == p {
			d.owners[i] = nil
		}
	}
	for i := range d.peers {
		if d.peers[i] == p {
			d.peers = append(d.peers[:i:i], d.peers[i+1:]...)
			return
		}
	}
}

// modelTunnels is the real applier of tunnels, over this kernel.
type modelTunnels struct {
	*wgtunnel.Applier
	n       *modelNode
	applied []view.Device // without an error, and what is there hasn't changed since version
	version int
}

// same reports whether the applier has nothing to do, for sure: it would find out for itself, and take long.
func (t *modelTunnels) same(devices []view.Device) bool {
	return t.version == t.n.version && slices.EqualFunc(t.applied, devices, func(a, b view.Device) bool {
		return a.Name == b.Name && a.Generation == b.Generation && slices.EqualFunc(a.Peers, b.Peers, func(a, b view.Peer) bool {
			return a.PublicKey == b.PublicKey && a.Endpoint == b.Endpoint && a.Keepalive == b.Keepalive && a.Attempt == b.Attempt &&
				a.Disowned.Equal(b.Disowned) && slices.Equal(a.AllowedIPs, b.AllowedIPs)
		})
	})
}

func (t *modelTunnels) Make(ctx context.Context, devices []view.Device) (int, error) {
	if t.same(devices) {
		return 0, nil
	}
	return t.Applier.Make(ctx, devices)
}

func (t *modelTunnels) Apply(ctx context.Context, devices []view.Device) (int, error) {
	if t.same(devices) {
		return 0, nil
	}
	writes, err := t.Applier.Apply(ctx, devices)
	t.applied = nil
	if err == nil {
		t.applied, t.version = devices, t.n.version
	}
	return writes, err
}

// Prune tells the agent of no change: it would free the memory of the whole test after each.
func (t *modelTunnels) Prune(ctx context.Context, devices []view.Device) (int, error) {
	writes, err := t.Applier.Prune(ctx, devices)
	t.n.pruned += writes
	return 0, err
}

func (t *modelTunnels) Observe(ctx context.Context) ([]view.DeviceState, error) {
	if t.n.yield != nil { // else it is a glance between passes
		t.n.point("a pass begins")
	}
	return t.Applier.Observe(ctx)
}

// modelNetwork has the routes; the rest of the network stands by itself.
type modelNetwork struct{ *modelNode }

func (m modelNetwork) Observe(context.Context, []netip.Addr) (view.Host, error) {
	return view.Host{}, nil
}
func (m modelNetwork) ApplySysctls(context.Context, []contract.Sysctl) (int, error) { return 0, nil }
func (m modelNetwork) Astray([]contract.Sysctl) bool                                { return false }
func (m modelNetwork) ApplyBridges(context.Context, []view.Bridge) (int, error)     { return 0, nil }
func (m modelNetwork) ApplyDevices(context.Context, []view.Device) (int, error)     { return 0, nil }
func (m modelNetwork) ApplyPaths(context.Context, []view.Path) (int, error)         { return 0, nil }

// ApplyRoutes replaces routes one by one, and then removes what is left over.
func (m modelNetwork) ApplyRoutes(_ context.Context, routes []view.Route) (int, error) {
	var wanted [maxModelNodes]bool
	var failed error
	writes := 0
	for _, r := range routes {
		if r.Device == "" {
			continue // it fails closed
		}
		to, device := m.w.nodes[r.Destination.Addr().As4()[2]], modelDeviceNumber(r.Device)
		wanted[to.number] = true
		if m.routes[to.number] == device {
			continue
		}
		if err := m.write(modelRoutes, "route to %s by %s", to.name, r.Device); err != nil {
			failed = err
			continue
		}
		if m.devices[device] == nil {
			failed = fmt.Errorf("there is no %s", r.Device)
			continue
		}
		m.checkMove(to, device)
		m.routes[to.number], m.w.changed = device, true
		writes++
	}
	for i, device := range m.routes {
		if device == noModelRoute || wanted[i] {
			continue
		}
		if err := m.write(modelRoutes, "no route to %s", m.w.nodes[i].name); err != nil {
			failed = err
			continue
		}
		m.routes[i], m.w.changed = noModelRoute, true
		writes++
	}
	return writes, failed
}

// modelFirewall and modelAttach are what the loop needs beside.
type modelFirewall struct{}

func (modelFirewall) Apply(context.Context, view.Firewall) (int, error) { return 0, nil }

type modelAttach struct{ n *modelNode }

func (a modelAttach) Apply(_ context.Context, ready *view.Ready) (int, error) {
	a.n.open = ready != nil
	return 0, nil
}
func (a modelAttach) Problems() []view.Problem { return nil }
func (a modelAttach) Open() *view.Ready {
	if !a.n.open {
		return nil
	}
	return &view.Ready{}
}
func (a modelAttach) Attachments(context.Context) ([]view.Attachment, error) { return nil, nil }

package mesh_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// kernel is a fake of all appliers: it keeps what was applied last, and counts a change where that differs.
type kernel struct {
	mu       sync.Mutex
	held     map[string]string
	order    []string // the steps of the last pass
	writes   int
	fail     map[string]error
	slow     time.Duration // how long it takes to look at it
	host     view.Host
	devices  []view.Device
	sessions map[keys.PublicKey]time.Time // handshakes
	keyOf    func(generation uint32) keys.PublicKey
	muted    map[string]bool // links without a session, by device and key
	ready    *view.Ready
	shut     bool // for pods that are left of a former pod CIDR
	attached []view.Attachment
	undone   string         // a step that somebody undoes again and again
	foreign  keys.PublicKey // that somebody gave the first device; zero: nobody did
}

func newKernel() *kernel {
	return &kernel{held: map[string]string{}, fail: map[string]error{}, sessions: map[keys.PublicKey]time.Time{}, muted: map[string]bool{}}
}

// mute takes the session of one link away.
func (k *kernel) mute(key keys.PublicKey, device string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.muted[device+key.String()] = true
}

func (k *kernel) apply(ctx context.Context, step string, desired any) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if step == "firewall" {
		k.order = nil
	}
	k.order = append(k.order, step)
	if err := k.fail[step]; err != nil {
		return 0, err
	}
	text := fmt.Sprintf("%+v", desired)
	if k.held[step] == text && step != k.undone {
		return 0, nil
	}
	k.held[step] = text
	if step == "made" {
		k.foreign = keys.PublicKey{}
	}
	k.writes++
	view.Changed(ctx, "making "+step)
	return 1, nil
}

// forget has somebody undo steps. What was made of tunnels has no peers then, and what was made a key that isn't ours.
func (k *kernel) forget(steps ...string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, step := range steps {
		delete(k.held, step)
		if step == "made" {
			k.foreign[0]++
		}
		if step == "tunnels" {
			k.devices = slices.Clone(k.devices)
			for i := range k.devices {
				k.devices[i].Peers = nil
			}
		}
	}
}

// open reports whether pods can be attached.
func (k *kernel) open() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ready != nil
}

// text is what a step applied last.
func (k *kernel) text(step string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[step]
}

// keepalive is the interval of the first peer of the first device.
func (k *kernel) keepalive() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.devices[0].Peers[0].Keepalive
}

// network, tunnels, rules and files are the kernel as the loop's interfaces have it.
type (
	network struct{ *kernel }
	tunnels struct{ *kernel }
	rules   struct{ *kernel }
	files   struct{ *kernel }
)

func (n network) Observe(ctx context.Context, _ []netip.Addr) (view.Host, error) {
	time.Sleep(n.slow)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.host, errors.Join(ctx.Err(), n.fail["observe"])
}

func (n network) ApplySysctls(ctx context.Context, s []contract.Sysctl) (int, error) {
	return n.apply(ctx, "sysctls", s)
}

func (n network) Astray([]contract.Sysctl) bool { return false }

func (n network) ApplyBridges(ctx context.Context, b []view.Bridge) (int, error) {
	return n.apply(ctx, "bridges", b)
}

func (n network) ApplyDevices(ctx context.Context, d []view.Device) (int, error) {
	return n.apply(ctx, "devices", d)
}

func (n network) ApplyRoutes(ctx context.Context, r []view.Route) (int, error) {
	return n.apply(ctx, "routes", r)
}

func (n network) ApplyPaths(ctx context.Context, p []view.Path) (int, error) {
	return n.apply(ctx, "paths", p)
}

func (t tunnels) Make(ctx context.Context, d []view.Device) (int, error) {
	return t.apply(ctx, "made", names(d))
}

func (t tunnels) Prune(ctx context.Context, d []view.Device) (int, error) {
	return t.apply(ctx, "pruned", names(d))
}

func names(devices []view.Device) []string {
	var all []string
	for _, d := range devices {
		all = append(all, d.Name)
	}
	return all
}

func (t tunnels) Apply(ctx context.Context, d []view.Device) (int, error) {
	writes, err := t.apply(ctx, "tunnels", d)
	if err == nil {
		t.mu.Lock()
		t.devices = d
		t.mu.Unlock()
	}
	return writes, err
}

func (t tunnels) Observe(context.Context) ([]view.DeviceState, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var states []view.DeviceState
	if err := t.fail["look at tunnels"]; err != nil {
		return nil, err
	}
	for _, d := range t.devices {
		state := view.DeviceState{Name: d.Name, Kind: "kernel", ListenPort: d.ListenPort, PublicKey: t.keyOf(d.Generation)}
		if !t.foreign.IsZero() {
			state.PublicKey = t.foreign
		}
		for _, p := range d.Peers {
			shown := view.PeerState{PublicKey: p.PublicKey, Endpoint: p.Endpoint, LastHandshake: t.sessions[p.PublicKey], AllowedIPs: len(p.AllowedIPs)}
			if t.muted[d.Name+p.PublicKey.String()] {
				shown.LastHandshake = time.Time{}
			}
			state.Peers = append(state.Peers, shown)
		}
		states = append(states, state)
	}
	return states, nil
}

func (r rules) Apply(ctx context.Context, f view.Firewall) (int, error) {
	return r.apply(ctx, "firewall", f)
}

func (f files) Apply(ctx context.Context, ready *view.Ready) (int, error) {
	text := "closed"
	if ready != nil {
		text = fmt.Sprintf("%+v", *ready)
	}
	n, err := f.apply(ctx, "attach", text)
	if err == nil {
		f.mu.Lock()
		f.ready = ready
		f.mu.Unlock()
	}
	return n, err
}

func (f files) Problems() []view.Problem { return nil }

func (f files) Open() *view.Ready {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shut {
		return nil
	}
	return f.ready
}

func (f files) Attachments(context.Context) ([]view.Attachment, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.attached), f.fail["store"]
}

// air is a fake gossip: what was said, and what this node announced.
type air struct {
	mu        sync.Mutex
	heard     []mesh.Heard
	announced [][]byte
	shared    map[string][]byte
	seeds     []mesh.Seed
	sent      [][]byte // messages of the agent
	sentTo    []string // their nodes, of all of them
	mail      [][]byte // messages for the agent
}

func (a *air) Announce(raw []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.announced = append(a.announced, raw)
	return nil
}

func (a *air) Heard() []mesh.Heard {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]mesh.Heard(nil), a.heard...)
}

func (a *air) say(h ...mesh.Heard) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.heard = h
}

func (a *air) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.announced)
}

func (a *air) Share(records map[string][]byte) { a.shared = records }
func (a *air) Seek(seeds []mesh.Seed) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seeds = seeds
}

// sought is where the agent looks for others.
func (a *air) sought() []mesh.Seed {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seeds
}

func (a *air) Status() view.GossipStatus     { return view.GossipStatus{} }
func (a *air) Refused() map[string]uint64    { return nil }
func (a *air) Pulses() map[string]view.Pulse { return nil }
func (a *air) Problems() []view.Problem      { return nil }

func (a *air) Send(node string, message []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sentTo = append(a.sentTo, node)
	a.sent = append(a.sent, message)
	return nil
}

func (a *air) Deliver(node string, message []byte) error { return a.Send(node, message) }

func (a *air) Messages() [][]byte {
	a.mu.Lock()
	defer a.mu.Unlock()
	mail := a.mail
	a.mail = nil
	return mail
}

// tell puts messages into the agent's mail.
func (a *air) tell(messages ...[]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mail = append(a.mail, messages...)
}

// told returns which keys the agent told a peer that it uses, since it was asked last.
func (a *air) told(t *testing.T, w *world, to *speaker) []record.Generation {
	t.Helper()
	a.mu.Lock()
	sent := a.sent
	a.sent = nil
	a.mu.Unlock()
	var told []record.Generation
	for _, raw := range sent {
		if raw[0] == record.LossKind {
			continue
		}
		ack, err := record.OpenAck(raw, to.name, to.store.Identity().Public(), func(string) (keys.PublicIdentity, bool) {
			return w.self.store.Identity().Public(), true
		})
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, ack.Generation)
	}
	return told
}

// cluster is a fake Kubernetes.
type cluster struct {
	mu     sync.Mutex
	state  mesh.ClusterState
	own    mesh.Own
	events []mesh.Event
}

func (c *cluster) State() mesh.ClusterState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

func (c *cluster) Report(own mesh.Own) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.own = own
}

func (c *cluster) Event(e mesh.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
}

func (c *cluster) told() mesh.Own {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.own
}

func (c *cluster) setState(state mesh.ClusterState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = state
}

func (c *cluster) set(nodes ...mesh.ClusterNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = mesh.ClusterState{Synced: true, Reachable: true, Nodes: nodes}
}

// speaker is another node: it has real keys, and signs real records.
type speaker struct {
	number int
	name   string
	store  *keys.Store
}

func newSpeaker(t *testing.T, number int, name string) *speaker {
	t.Helper()
	store, err := keys.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	return &speaker{number: number, name: name, store: store}
}

func (s *speaker) cidr() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(s.number), 0}), 24)
}

func (s *speaker) address() netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, byte(s.number)}) }

func (s *speaker) key() keys.PublicKey { return s.store.Generations()[0].Private.Public() }

func (s *speaker) node() mesh.ClusterNode {
	return mesh.ClusterNode{
		Name: s.name, Created: time.Unix(int64(s.number), 0), PodCIDRs: []netip.Prefix{s.cidr()},
		Addresses: []netip.Addr{s.address()}, Identity: s.store.Identity().Public(),
	}
}

// says is a new record of the node, with a change to it.
func (s *speaker) says(t *testing.T, change func(*record.Record)) mesh.Heard {
	t.Helper()
	sequence, err := s.store.NextSequence()
	if err != nil {
		t.Fatal(err)
	}
	r := record.Record{
		Identity: s.store.Identity().Public(), Sequence: sequence,
		Generations: []record.Generation{{Number: 0, Key: s.key()}},
		Endpoint4:   netip.AddrPortFrom(s.address(), contract.BasePort), PodCIDR4: s.cidr(),
	}
	if change != nil {
		change(&r)
	}
	raw, err := record.Sign(s.name, r, s.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return mesh.Heard{Node: s.name, Raw: raw, From: s.address(), At: []netip.Addr{s.address()}, Alive: true}
}

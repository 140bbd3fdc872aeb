package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// The kinds of tunnel devices.
const (
	Kernel    = "kernel"
	Userspace = "userspace"
)

// Maker makes and removes the interfaces of tunnel devices: kernel links, or TUN devices of the userspace daemon.
type Maker interface {
	// Make makes an interface with an MTU in bytes. One of its own kind that exists already is no error.
	Make(ctx context.Context, name string, mtu int) error
	// Remove removes an interface. One that doesn't exist is no error.
	Remove(ctx context.Context, name string) error
	// List returns the names of the tunnel devices of its own kind, and no others.
	List(ctx context.Context) ([]string, error)
}

// Client reads and configures WireGuard devices. *wgctrl.Client is one.
type Client interface {
	// Device returns an error that is fs.ErrNotExist when there is no such WireGuard device.
	Device(name string) (*wgtypes.Device, error)
	ConfigureDevice(name string, config wgtypes.Config) error
	Close() error
}

// Config is what an Applier needs.
type Config struct {
	Maker Maker
	// Private returns the private key of a generation of this node, if the key store has it.
	Private func(generation uint32) (keys.PrivateKey, bool)
	Kind    string // Kernel or Userspace: what Maker makes
	Log     *slog.Logger

	// Open opens a client for one pass; nil: wgctrl's. It is opened anew each time because a client knows of the
	// kernel's WireGuard only if the module was loaded before, and the first Make may load it.
	Open func() (Client, error)
	Now  func() time.Time // nil: time.Now
	// Within is how long WireGuard may take for one part of a pass; 0: 10 s.
	Within time.Duration
}

// Applier makes the tunnel devices be as desired. It remembers what it last wanted, so there is one for the life of
// an agent. Safe for concurrent use; passes wait for each other.
type Applier struct {
	config Config

	turn chan struct{} // holds one while something is done with the tunnels; see alone
	// wanted is what was last wanted of each peer, by device name.
	wanted map[string]map[keys.PublicKey]wanted
}

// New returns an Applier. It touches nothing yet.
func New(config Config) *Applier {
	if config.Open == nil {
		config.Open = func() (Client, error) { return wgctrl.New() }
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Within == 0 {
		config.Within = answerWithin
	}
	return &Applier{config: config, turn: make(chan struct{}, 1), wanted: map[string]map[keys.PublicKey]wanted{}}
}

// Make makes the tunnel devices exist, with their keys and ports, and returns how many changes that took. Their peers
// are Apply's: in between, a new device gets its addresses and settings, so that it can carry what its first peer sends.
func (a *Applier) Make(ctx context.Context, desired []view.Device) (int, error) {
	return a.each(ctx, desired, (*pass).base)
}

// Apply makes the tunnel devices and their peers be as desired, and returns how many changes it made: 0 when nothing
// differed. Devices that aren't desired stay: see Prune. Devices and peers that can't be made so are left as they are,
// and don't keep it from the others; the error joins what went wrong with each, by the name of the device and the node.
func (a *Applier) Apply(ctx context.Context, desired []view.Device) (int, error) {
	return a.each(ctx, desired, (*pass).run)
}

// each runs a part of a pass on each device.
func (a *Applier) each(ctx context.Context, desired []view.Device, part func(*pass, context.Context, view.Device) error) (int, error) {
	return alone(ctx, a, func(ctx context.Context) (writes int, _ error) {
		var errs []error
		for _, d := range desired {
			n, err := a.applyDevice(ctx, d, part)
			writes += n
			if err != nil {
				errs = append(errs, fmt.Errorf("tunnel device %s: %w", d.Name, err))
			}
		}
		return writes, errors.Join(errs...)
	})
}

// Prune removes the tunnel devices of ours that aren't desired, and their keys with them. It is for when no route leads
// to them any more. It returns how many changes it made.
func (a *Applier) Prune(ctx context.Context, desired []view.Device) (int, error) {
	return alone(ctx, a, func(ctx context.Context) (int, error) { return a.prune(ctx, desired) })
}

func (a *Applier) prune(ctx context.Context, desired []view.Device) (int, error) {
	made, err := a.config.Maker.List(ctx)
	if err != nil {
		return 0, fmt.Errorf("listing the tunnel devices: %w", err)
	}
	var writes int
	var errs []error
	for _, name := range made {
		if !contract.IsDeviceName(name) || slices.ContainsFunc(desired, func(d view.Device) bool { return d.Name == name }) {
			continue
		}
		writes += a.eraseKey(name)
		if err := a.config.Maker.Remove(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("tunnel device %s: removing it: %w", name, err))
			continue
		}
		writes++
		delete(a.wanted, name)
		a.config.Log.Debug("tunnel device removed", "device", name)
		view.Changed(ctx, "removing the tunnel device "+name)
	}
	return writes, errors.Join(errs...)
}

// eraseKey takes the private key from a device that is about to be removed, and returns how many changes it made.
// Freeing the device may leave the key in memory, replacing the key doesn't. It is no loss when that fails: the device
// goes all the same.
func (a *Applier) eraseKey(name string) int {
	client, current, err := a.look(name)
	if err != nil {
		return 0
	}
	defer client.Close() // it only lets go of a socket
	if current == nil || current.PublicKey == (wgtypes.Key{}) {
		return 0
	}
	if err := client.ConfigureDevice(name, wgtypes.Config{PrivateKey: &wgtypes.Key{}}); err != nil {
		a.config.Log.Debug("the key of a tunnel device isn't erased before its removal", "device", name, "error", explain(err, 0))
		return 0
	}
	return 1
}

// applyDevice makes one device exist, and a part of it be as desired.
func (a *Applier) applyDevice(ctx context.Context, desired view.Device, part func(*pass, context.Context, view.Device) error) (int, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !contract.IsDeviceName(desired.Name) {
		return 0, fmt.Errorf("a tunnel device is named %s0 to %s%d", contract.DevicePrefix, contract.DevicePrefix, contract.MaxDevices-1)
	}
	private, ok := a.config.Private(desired.Generation)
	if !ok || private.IsZero() {
		return 0, fmt.Errorf("the key store has no key of generation %d", desired.Generation)
	}
	client, current, made, err := a.ensure(ctx, desired)
	if err != nil {
		return made, err
	}
	defer client.Close() // it only lets go of a socket
	if kind := KindOf(current); kind != a.config.Kind {
		return made, fmt.Errorf("it is a %s WireGuard device, and this agent makes %s ones; remove it, or start the agent "+
			"with --wireguard=%s", kind, a.config.Kind, kind)
	}
	p := &pass{
		client: client, current: current, device: desired.Name, private: private, now: a.config.Now(),
		wanted: a.wantedOf(desired.Name), writes: made, log: a.config.Log.With("device", desired.Name),
	}
	err = part(p, ctx, desired)
	return p.writes, err
}

// ensure returns what the device holds, after making it if there is none, and how many changes that took. The
// caller closes the client if there is no error.
func (a *Applier) ensure(ctx context.Context, desired view.Device) (Client, *wgtypes.Device, int, error) {
	client, current, err := a.look(desired.Name)
	if err != nil {
		return nil, nil, 0, err
	}
	if current != nil {
		return client, current, 0, nil
	}
	client.Close() // it only lets go of a socket
	if err := a.config.Maker.Make(ctx, desired.Name, desired.MTU); err != nil {
		return nil, nil, 0, fmt.Errorf("making it: %w", err)
	}
	delete(a.wanted, desired.Name) // whatever had that name before is gone
	a.config.Log.Debug("tunnel device made", "device", desired.Name, "kind", a.config.Kind, "mtu", desired.MTU)
	view.Made(ctx, "making the tunnel device "+desired.Name)
	client, current, err = a.look(desired.Name)
	if err != nil {
		return nil, nil, 1, err
	}
	if current == nil {
		client.Close() // it only lets go of a socket
		return nil, nil, 1, fmt.Errorf("it was made, but WireGuard doesn't know it: look at it with `wg show %s` and "+
			"`ip link show %s`", desired.Name, desired.Name)
	}
	return client, current, 1, nil
}

// look opens a client and reads a device with it; nil if there is none. The caller closes the client if there is no
// error.
func (a *Applier) look(name string) (Client, *wgtypes.Device, error) {
	client, err := a.config.Open()
	if err != nil {
		return nil, nil, fmt.Errorf("opening WireGuard: %w", explain(err, 0))
	}
	current, err := read(client, name)
	if err != nil {
		client.Close() // it only lets go of a socket
		return nil, nil, err
	}
	return client, current, nil
}

func (a *Applier) wantedOf(device string) map[keys.PublicKey]wanted {
	if a.wanted[device] == nil {
		a.wanted[device] = map[keys.PublicKey]wanted{}
	}
	return a.wanted[device]
}

// read returns a WireGuard device without its private key, or nil if there is none. One that has no private key has no
// public key either.
func read(client Client, name string) (*wgtypes.Device, error) {
	var device *wgtypes.Device
	var err error
	keys.Secretly(func() {
		device, err = client.Device(name)
		if err != nil {
			return
		}
		if device.PrivateKey == (wgtypes.Key{}) { // wgctrl computes a public key even of none
			device.PublicKey = wgtypes.Key{}
		}
		clear(device.PrivateKey[:])
	})
	// A refused connection is the socket of a userspace process that is gone, and its device with it.
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading it: %w", explain(err, 0))
	}
	return device, nil
}

// KindOf is Kernel or Userspace.
func KindOf(device *wgtypes.Device) string {
	if device.Type == wgtypes.Userspace {
		return Userspace
	}
	return Kernel
}

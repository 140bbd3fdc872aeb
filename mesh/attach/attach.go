package attach

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Config says where things are on this host. All paths are absolute.
type Config struct {
	ReadyFile string // what the plugin waits for, usually store.DefaultReadyFile
	ConfDir   string // where the container runtime looks for network configurations, usually /etc/cni/net.d
	BinDir    string // where it looks for plugins, usually /opt/cni/bin
	// PluginDir has the plugins to install, usually /cni in the agent's image; "": this host attaches no pods, or
	// something else installs plugins and conflist.
	PluginDir string
	StoreDir  string // the plugin's store of attachments, usually store.DefaultDir
	Log       *slog.Logger
	// NewWatcher makes what watches files; nil: fsnotify.NewWatcher.
	NewWatcher func() (*fsnotify.Watcher, error)
	// Interfaces lists this host's; nil: net.Interfaces.
	Interfaces func() ([]net.Interface, error)
}

// ErrAttached says that interfaces of pods are still attached.
var ErrAttached = errors.New("still attached")

// Attach keeps the files as they should be. It isn't for several goroutines, but for Problems, Attachments and InUse.
type Attach struct {
	cfg  Config
	seen map[string]pair // plugins that were found equal, by name
	// known are the attachments that were in the store when it was looked at last.
	known map[store.ID]store.Attachment
	// missed are attachments whose interface isn't there, and since when.
	missed map[store.ID]time.Time
	// left are the problems of pods that are attached to what this node doesn't have any more; nil: not known yet.
	left atomic.Pointer[[]view.Problem]
}

// New returns an Attach that has changed nothing yet.
func New(cfg Config) *Attach {
	return &Attach{cfg: cfg, seen: make(map[string]pair)}
}

// Apply opens this node for pods, in this order: plugins, ready file, conflist; and forgets attachments whose sandbox is
// gone. With a nil ready it closes the node to new pods by removing the ready file, forgets those attachments too, and leaves
// the rest: the runtime needs plugin and conflist to detach. So it does while pods have addresses of another pod CIDR than this node's, such as of
// a Node that was made again: others may have got them. It writes only what differs, and returns how many files it changed.
// Errors name the directory and what to do.
func (a *Attach) Apply(ctx context.Context, ready *view.Ready) (int, error) {
	if ready == nil {
		writes, err := a.close(ctx, "no pod is attached for now")
		swept, _, errSweep := a.sweep(ctx) // a node may be closed until nothing is attached any more
		return writes + swept, errors.Join(err, errSweep)
	}
	writes, attached, errSweep := a.sweep(ctx)
	left := leftBehind(*ready, attached)
	problems := left.problems()
	a.left.Store(&problems)
	steps := []func(context.Context) (int, error){
		a.installPlugins,
		func(ctx context.Context) (int, error) {
			if left.onDefault() {
				return a.close(ctx, "no pod is attached while others have addresses of a former pod CIDR")
			}
			return a.writeReady(ctx, *ready)
		},
		a.writeConflist,
	}
	for _, step := range steps {
		n, err := step(ctx)
		writes += n
		if err != nil {
			return writes, errors.Join(err, errSweep)
		}
	}
	return writes, errSweep
}

// close removes the ready file, and says why.
func (a *Attach) close(ctx context.Context, why string) (int, error) {
	removed, err := remove(a.cfg.ReadyFile)
	if removed > 0 {
		a.cfg.Log.InfoContext(ctx, "ready file removed: "+why, "path", a.cfg.ReadyFile)
	}
	return removed, err
}

func (a *Attach) writeReady(ctx context.Context, ready view.Ready) (int, error) {
	want := store.Ready{
		Version:  store.ReadyVersion,
		Bridge:   ready.Bridge,
		Subnets:  ready.Subnets,
		Gateways: ready.Gateways,
		MTU:      ready.MTU,
	}
	for _, n := range ready.Networks {
		want.Networks = append(want.Networks, store.ReadyNetwork(n))
	}
	// One that can't be read is written again.
	if got, err := store.ReadReady(a.cfg.ReadyFile); err == nil && got.Equal(want) {
		return 0, nil
	}
	if err := store.WriteReady(a.cfg.ReadyFile, want); err != nil {
		return 0, fmt.Errorf("%w; %s", err, remedy(err))
	}
	a.cfg.Log.DebugContext(ctx, "ready file written", "path", a.cfg.ReadyFile, "bridge", ready.Bridge, "subnets", ready.Subnets,
		"mtu", ready.MTU, "networks", networkNames(ready.Networks))
	view.Changed(ctx, "writing "+a.cfg.ReadyFile)
	return 1, nil
}

func networkNames(networks []view.ReadyNetwork) []string {
	var names []string
	for _, n := range networks {
		names = append(names, n.Name)
	}
	return names
}

func (a *Attach) writeConflist(ctx context.Context) (int, error) {
	if a.cfg.PluginDir == "" || len(a.missing()) > 0 {
		return 0, nil // see Problems
	}
	want, err := a.conflist()
	if err != nil {
		return 0, err
	}
	path := a.conflistPath()
	if got, err := os.ReadFile(path); err == nil && bytes.Equal(got, want) {
		return 0, nil
	}
	if err := replaceFile(path, 0o644, bytes.NewReader(want)); err != nil {
		return 0, fmt.Errorf("writing the network configuration %s: %w; %s", path, err, remedy(err))
	}
	a.cfg.Log.DebugContext(ctx, "CNI network configuration written", "path", path)
	view.Changed(ctx, "writing "+path)
	return 1, nil
}

// Open returns what pods can be attached to now, by the ready file; nil: there is none that the plugin can use.
func (a *Attach) Open() *view.Ready {
	r, err := store.ReadReady(a.cfg.ReadyFile)
	if err != nil {
		return nil
	}
	ready := &view.Ready{Bridge: r.Bridge, Subnets: r.Subnets, Gateways: r.Gateways, MTU: r.MTU}
	for _, n := range r.Networks {
		ready.Networks = append(ready.Networks, view.ReadyNetwork(n))
	}
	return ready
}

// Attachments returns what is attached on this node, sorted by container and interface. Files of the store that
// can't be read don't hide the others: both results may be non-nil.
func (a *Attach) Attachments(ctx context.Context) ([]store.Attachment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return store.ListIn(a.cfg.StoreDir)
}

// InUse returns for each of the subnets how many of its addresses are taken. Safe for concurrent use.
func (a *Attach) InUse(ctx context.Context, subnets []netip.Prefix) ([]int, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return store.InUseIn(a.cfg.StoreDir, subnets)
}

// Cleanup removes all that Apply wrote, and the store. While pods are attached it removes the ready file only, so
// that none is added, and returns ErrAttached: the runtime needs the rest to detach them. It is safe to repeat.
func (a *Attach) Cleanup(ctx context.Context) error {
	if _, err := remove(a.cfg.ReadyFile); err != nil {
		return err
	}
	attached, err := a.Attachments(ctx)
	if err != nil {
		return fmt.Errorf("what is attached isn't known, so the plugins stay: %w", err)
	}
	if len(attached) > 0 {
		return fmt.Errorf("%d interfaces of pods are %w, so %s, the plugins in %s and the directory %s stay: drain this "+
			"node or reboot it, and clean up again", len(attached), ErrAttached, a.conflistPath(), a.cfg.BinDir, a.cfg.StoreDir)
	}
	var errs []error
	if a.cfg.PluginDir != "" {
		_, err := remove(a.conflistPath())
		errs = append(errs, err, a.removePlugins())
	}
	if err := os.RemoveAll(a.cfg.StoreDir); err != nil {
		errs = append(errs, fmt.Errorf("removing the store of attachments: %w", err))
	}
	return errors.Join(errs...)
}

// remove removes a file, and returns how many it removed.
func remove(path string) (int, error) {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("removing %s: %w; %s", path, err, remedy(err))
	}
	return 1, nil
}

func (a *Attach) conflistPath() string { return filepath.Join(a.cfg.ConfDir, ConflistName) }

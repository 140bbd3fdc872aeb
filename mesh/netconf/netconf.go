package netconf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/weaveguard/weaveguard/mesh/aside"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// extension is that of the files that are read.
	extension = ".conf"
	// maxFile is the largest file that is read, in bytes: a usual one has some hundreds.
	maxFile = 64 << 10
	// maxFiles is how many files are read.
	maxFiles = 256
	// disableIPv6 says, below the settings' root, whether the kernel's IPv6 is off; without IPv6 it isn't there.
	disableIPv6 = "net/ipv6/conf/all/disable_ipv6"
)

// Config is what New needs.
type Config struct {
	Dir        string // where the files are, usually contract.NetworksDir; it need not exist
	Bridge     string // of the default network
	SysctlRoot string // where the kernel's settings can be read, usually /proc/sys
	Kept       string // file that keeps the networks for the next start, whose directory exists; "": none
	Changed    func() // called after something changed, from the goroutine of Run; nil: nobody wants to know
	Log        *slog.Logger
}

// Networks are the networks that the files make. Safe for concurrent use.
type Networks struct {
	cfg Config

	// Of who reads the files.
	files   map[string]view.Network // in force, by path
	missing map[string]bool         // those that weren't there in the last reading, by path
	saved   map[string]view.Network // on disk, by path
	unkept  bool                    // the log was told that they can't be written there

	mu       sync.Mutex
	networks []view.Network // in force, sorted by name
	problems []view.Problem
}

// New reads the files once. Run follows them.
func New(cfg Config) *Networks {
	if cfg.Changed == nil {
		cfg.Changed = func() {}
	}
	n := &Networks{cfg: cfg, files: map[string]view.Network{}}
	if err := n.recall(); err != nil {
		cfg.Log.Warn("networks whose files are bad now aren't known", "error", err)
	}
	n.read()
	return n
}

// Configured returns the networks, sorted by name, each valid by itself, no two of one name or bridge, and none overlapping
// another; and what is wrong with the files, which the networks of good ones don't suffer from. A file that was good keeps
// its network for as long as it is bad.
func (n *Networks) Configured() ([]view.Network, []view.Problem) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.networks), slices.Clone(n.problems)
}

// read reads all files. It reports whether anything changed, and whether it is to be called again soon: a network goes when
// its file isn't there twice.
func (n *Networks) read() (changed, again bool) {
	r := reading{host: host{bridge: n.cfg.Bridge, ipv6: n.hasIPv6()}, inForce: map[string]view.Network{}, missing: map[string]bool{}}
	r.before, r.missed = n.files, n.missing
	if err := r.files(n.cfg.Dir); err != nil {
		r.problem(n.cfg.Dir, fmt.Sprintf("the networks aren't known: %v; those that are in use stay", err),
			"let the agent read the directory and the files in it")
		r.inForce = r.before
	}
	if n.cfg.Kept != "" {
		r.problems = append(r.problems, aside.Problems(n.cfg.Kept, lostKept)...)
	}
	networks := slices.SortedFunc(maps.Values(r.inForce), func(a, b view.Network) int { return strings.Compare(a.Name, b.Name) })
	n.mu.Lock()
	same := slices.EqualFunc(n.networks, networks, view.Network.Equal) && slices.Equal(n.problems, r.problems)
	n.files, n.missing, n.networks, n.problems = r.inForce, r.missing, networks, r.problems
	n.mu.Unlock()
	n.keep()
	return !same, len(r.missing) > 0
}

func (n *Networks) hasIPv6() bool {
	raw, err := os.ReadFile(filepath.Join(n.cfg.SysctlRoot, disableIPv6))
	return err == nil && string(bytes.TrimSpace(raw)) == "0"
}

// reading is one look at all files.
type reading struct {
	host     host
	before   map[string]view.Network // in force until now, by path
	inForce  map[string]view.Network
	missed   map[string]bool // not there in the last reading, by path
	missing  map[string]bool // nor now, for the first time
	problems []view.Problem
}

func (r *reading) problem(subject, message, remedy string) {
	r.problems = append(r.problems, view.Problem{Subject: subject, Message: message, Remedy: remedy})
}

// list are the paths of the files of a directory, sorted.
func (r *reading) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var paths []string
	for _, e := range entries {
		path, ext := filepath.Join(dir, e.Name()), filepath.Ext(e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."): // of an editor, or of a ConfigMap that is mounted
		case ext == extension:
			paths = append(paths, path)
		case ext == ".conflist" || ext == ".json":
			r.problem(path, "it isn't read", "give it a name that ends in "+extension+", or move it away")
		}
	}
	if len(paths) > maxFiles {
		r.problem(dir, fmt.Sprintf("it has %d files, and the first %d are read", len(paths), maxFiles), "move the others away")
		paths = paths[:maxFiles]
	}
	return paths, nil
}

// files reads the files of a directory. Those that are in force as they are come first: what is new has to fit to them.
func (r *reading) files(dir string) error {
	paths, err := r.list(dir)
	if err != nil {
		return err
	}
	for path, network := range r.before {
		if !slices.Contains(paths, path) && !r.missed[path] {
			r.missing[path] = true
			r.inForce[path] = network
		}
	}
	parsed, faults := map[string]view.Network{}, map[string]error{}
	for _, path := range paths {
		network, err := readFile(path, r.host)
		before, known := r.before[path]
		if err == nil && !(known && network.Equal(before)) {
			parsed[path] = network
			continue
		}
		if err != nil {
			faults[path] = err
		}
		if known {
			r.inForce[path] = before // they fitted before, so they do now
		}
	}
	for _, path := range paths {
		network, fresh := parsed[path]
		if !fresh {
			continue
		}
		r.rename(network)
		if err := r.admit(path, network); err != nil {
			faults[path] = err
			if before, known := r.before[path]; known {
				_ = r.admit(path, before) // what doesn't fit any more goes
			}
		}
	}
	for _, path := range paths {
		if err := faults[path]; err != nil {
			r.fault(path, err)
		}
	}
	return nil
}

// rename makes room for a network whose former file is away, since it is in another one now.
func (r *reading) rename(n view.Network) {
	for path := range r.missing {
		if r.inForce[path].Name == n.Name {
			delete(r.inForce, path)
			delete(r.missing, path)
		}
	}
}

// fault says what is wrong with a file, and what becomes of its network.
func (r *reading) fault(path string, err error) {
	message, remedy := err.Error(), "let the agent read the file"
	var f *faulty
	if errors.As(err, &f) {
		remedy = f.remedy
	}
	if n, kept := r.inForce[path]; kept {
		message += fmt.Sprintf("; network %s stays as it was", n.Name)
	} else {
		message += "; it makes no network"
	}
	r.problem(path, message, remedy)
}

// admit puts a network in force, if it fits to those that are.
func (r *reading) admit(path string, n view.Network) error {
	if len(r.inForce) >= view.MaxNetworks {
		return wrong("remove some", "a node has %d networks at most beside the default one, and this is one more", view.MaxNetworks)
	}
	for _, other := range slices.Sorted(maps.Keys(r.inForce)) {
		o := r.inForce[other]
		switch {
		case o.Name == n.Name:
			return wrong("remove one of the two files", "key name: %s is the network of %s already", n.Name, other)
		case o.Bridge == n.Bridge:
			return wrong("give each network a bridge of its own", "key bridge: %s is that of network %s in %s already", n.Bridge, o.Name, other)
		}
		for _, p := range n.Ranges {
			for _, q := range o.Ranges {
				if p.Overlaps(q) {
					return wrong("give one of the two another range, on all nodes", "key ranges: %s overlaps %s of network %s in %s", p, q, o.Name, other)
				}
			}
		}
	}
	r.inForce[path] = n
	return nil
}

// readFile reads a file, but nothing that is none: a pipe would never end.
func readFile(path string, h host) (view.Network, error) {
	info, err := os.Stat(path)
	if err != nil {
		return view.Network{}, err
	}
	if !info.Mode().IsRegular() {
		return view.Network{}, wrong("move it away", "it isn't a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return view.Network{}, err
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return view.Network{}, err
	}
	if len(raw) > maxFile {
		return view.Network{}, wrong("keep one network to a file", "it has more than %d bytes", maxFile)
	}
	return parse(raw, h)
}

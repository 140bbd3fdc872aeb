package mesh

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/renameio/v2"

	"github.com/weaveguard/weaveguard/mesh/backoff"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// lookupInterval is how often names of hosts are looked up again: an address may change, or a name server come back.
	lookupInterval = 30 * time.Second
	// lookupPatience is how long one look-up may take.
	lookupPatience = 3 * time.Second
	// maxJoined is how many hosts are kept that were joined by hand. The mesh tells of all others once one of them answers.
	maxJoined = 256
)

// HostsConfig is what Hosts needs.
type HostsConfig struct {
	Configured []string // names and addresses that the agent was started with
	Path       string   // of the file that keeps those that were joined since: a line for each; # begins a comment
	Lookup     func(ctx context.Context, name string) ([]netip.Addr, error)
	Changed    func()        // is called when Addresses has changed
	Every      time.Duration // how often names are looked up again; 0: 30 s
	Log        *slog.Logger
}

// Hosts are the hosts where, without Kubernetes, other nodes' gossip is looked for beside what is known of the mesh. Safe for
// concurrent use.
type Hosts struct {
	cfg HostsConfig

	changing sync.Mutex // held by who changes the file
	mu       sync.Mutex // guards what follows
	joined   []string   // sorted
	found    map[string][]netip.Addr
	errs     map[string]string // why a host isn't found
}

// NewHosts reads which hosts were joined before. Of lines that name no host, and of a file that can't be read, the log tells.
func NewHosts(c HostsConfig) *Hosts {
	if c.Every == 0 {
		c.Every = lookupInterval
	}
	h := &Hosts{cfg: c, found: map[string][]netip.Addr{}, errs: map[string]string{}}
	raw, err := os.ReadFile(c.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.Log.Warn("hosts that were joined before aren't known", "error", err)
	}
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); {
		line, _, _ := strings.Cut(lines.Text(), "#")
		line = strings.TrimSpace(line)
		switch {
		case line == "" || slices.Contains(h.joined, line):
		case checkHost(line) != nil:
			c.Log.Warn("a line isn't used", "path", c.Path, "error", checkHost(line))
		default:
			h.joined = append(h.joined, line)
		}
	}
	slices.Sort(h.joined)
	return h
}

// hostName is what a name server may know (RFC 1123, section 2.1).
var hostName = regexp.MustCompile(`^[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*\.?$`)

func checkHost(host string) error {
	if address, err := netip.ParseAddr(host); err == nil {
		if !address.Unmap().IsGlobalUnicast() || address.Zone() != "" {
			return fmt.Errorf("%s isn't an address that another host can have", host)
		}
		return nil
	}
	if len(host) > 253 || !hostName.MatchString(host) || strings.Trim(host, "0123456789.") == "" {
		return fmt.Errorf("%q isn't the name or address of a host, such as node-4 or 192.0.2.4", host)
	}
	return nil
}

// All are the names and addresses of the hosts: the configured ones first.
func (h *Hosts) All() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := slices.Clone(h.cfg.Configured)
	for _, host := range h.joined {
		if !slices.Contains(all, host) {
			all = append(all, host)
		}
	}
	return all
}

// Addresses are those that were found last, in the order of All; of no Hosts none.
func (h *Hosts) Addresses() []netip.Addr {
	if h == nil {
		return nil
	}
	all := h.All()
	h.mu.Lock()
	defer h.mu.Unlock()
	var addresses []netip.Addr
	for _, host := range all {
		for _, address := range h.found[host] {
			if !slices.Contains(addresses, address) {
				addresses = append(addresses, address)
			}
		}
	}
	return addresses
}

// Join adds hosts, and returns when they are on disk. All of them have to be found, or none is added.
func (h *Hosts) Join(ctx context.Context, hosts []string) (view.JoinAnswer, error) {
	h.changing.Lock()
	defer h.changing.Unlock()
	known := h.All()
	var added []string
	for _, host := range hosts {
		if err := checkHost(host); err != nil {
			return view.JoinAnswer{}, err
		}
		if slices.Contains(known, host) || slices.Contains(added, host) {
			continue
		}
		addresses, err := h.lookup(ctx, host)
		if err != nil {
			return view.JoinAnswer{}, view.UnknownHost(host, err)
		}
		h.note(host, addresses, nil)
		added = append(added, host)
	}
	h.mu.Lock()
	joined := slices.Concat(h.joined, added)
	h.mu.Unlock()
	slices.Sort(joined)
	if len(joined) > maxJoined {
		return view.JoinAnswer{}, fmt.Errorf("no host is joined: %d are, and at most %d can be; remove some from %s while the agent is stopped",
			len(joined)-len(added), maxJoined, h.cfg.Path)
	}
	if len(added) > 0 {
		if err := h.save(joined); err != nil {
			return view.JoinAnswer{}, err
		}
		h.mu.Lock()
		h.joined = joined
		h.mu.Unlock()
		h.cfg.Log.Info("hosts are joined, as asked for", "hosts", added)
		h.cfg.Changed()
	}
	return view.JoinAnswer{Added: append([]string{}, added...), Hosts: append([]string{}, joined...)}, nil
}

func (h *Hosts) save(joined []string) error {
	if err := os.MkdirAll(filepath.Dir(h.cfg.Path), 0o700); err != nil {
		return fmt.Errorf("no host is joined: %w", err)
	}
	text := "# Hosts that `weaveguard join` named. The agent reads this when it starts.\n" + strings.Join(joined, "\n") + "\n"
	if err := renameio.WriteFile(h.cfg.Path, []byte(text), 0o600); err != nil {
		return fmt.Errorf("no host is joined: writing %s: %w", h.cfg.Path, err)
	}
	return nil
}

// Find looks all hosts up, and returns why some aren't found. What was found of them before stays in use.
func (h *Hosts) Find(ctx context.Context) error {
	before, missing := h.Addresses(), len(h.problems())
	var errs []error
	for _, host := range h.All() {
		addresses, err := h.lookup(ctx, host)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			err = fmt.Errorf("finding the address of %q: %w", host, err)
			errs = append(errs, err)
		}
		h.note(host, addresses, err)
	}
	if !slices.Equal(before, h.Addresses()) || len(errs) != missing {
		h.cfg.Changed()
	}
	return errors.Join(errs...)
}

// Run looks names up again from time to time, until the context ends.
func (h *Hosts) Run(ctx context.Context) error {
	for rest(ctx, backoff.Around(h.cfg.Every, nil)) {
		_ = h.Find(ctx) // it is one of the problems
	}
	return nil
}

func (h *Hosts) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if address, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{address.Unmap()}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupPatience)
	defer cancel()
	found, err := h.cfg.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var addresses []netip.Addr
	for _, address := range found {
		addresses = append(addresses, address.Unmap())
	}
	slices.SortFunc(addresses, netip.Addr.Compare) // name servers give them in turns
	return slices.Compact(addresses), nil
}

// note keeps what was found.
func (h *Hosts) note(host string, addresses []netip.Addr, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		h.errs[host] = err.Error()
		return
	}
	h.found[host] = addresses
	delete(h.errs, host)
}

// problems are the hosts that aren't found.
func (h *Hosts) problems() []view.Problem {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var problems []view.Problem
	for _, host := range slices.Sorted(maps.Keys(h.errs)) {
		problems = append(problems, view.Problem{
			Subject: "host " + host, Message: h.errs[host], Warning: true,
			Remedy: "see that this host's name server knows it, or give its address instead: in --peers, or in " + h.cfg.Path,
		})
	}
	return problems
}

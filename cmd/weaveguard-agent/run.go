package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/firewall"
	"github.com/weaveguard/weaveguard/mesh/gossip"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/mesh/netconf"
	"github.com/weaveguard/weaveguard/mesh/path"
	"github.com/weaveguard/weaveguard/mesh/route"
	"github.com/weaveguard/weaveguard/mesh/tunnel"
	"github.com/weaveguard/weaveguard/mesh/tunnel/userspace"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// apiPatience is how long one question to the Kubernetes API may take at the start.
	apiPatience = 10 * time.Second
	// syncPatience is how long the start waits for the Nodes, or an answer, before it goes on with those of the last start.
	syncPatience = 3 * time.Second
	// silentPatience is how long that may take once it is seen that the API server doesn't answer.
	silentPatience = time.Second
	// stopPatience is how long saying goodbye may take.
	stopPatience = 2 * time.Second
)

// starter is the agent as it starts: each step adds what the later ones need.
type starter struct {
	options
	*board
	group   *errgroup.Group
	timings *api.Timings

	store      *keys.Store
	remembered mesh.Remembered
	kube       *kube.Kube // nil without Kubernetes
	addresses  []netip.Addr
	hosts      *mesh.Hosts
	ring       *keys.Followed
	unread     bool  // ring is of the last start, as the Secret couldn't be read
	unkept     error // why ring isn't on disk for the next start; nil: it is
	silent     bool  // the API server doesn't answer
	ranges     []netip.Prefix
	source     string
	maker      tunnel.Maker
	kind       string
	gossip     *gossip.Gossip
	keyring    *keyringFollower
}

// run starts the parts in the order in which they need each other, and returns when the context ends or a part
// can't go on. What can't be had yet is waited for, with the status API up to say so.
func run(ctx context.Context, o options, log *slog.Logger, level *slog.LevelVar) error {
	log.Info("weaveguard-agent starts", "version", contract.Version(), "node", o.NodeName)
	latch, timings := mesh.NewLatch(), api.NewTimings()
	b := &board{node: o.NodeName, started: time.Now(), latch: latch, log: log}
	hosts := mesh.NewHosts(mesh.HostsConfig{
		Configured: o.Peers, Path: filepath.Join(o.StateDir, contract.HostsFile), Lookup: lookUp, Changed: latch.Set, Log: log,
	})
	var server *api.Server
	server = api.New(api.Config{
		Socket: o.agentSocket(), MetricsAddr: o.MetricsAddr, HealthAddr: o.HealthAddr, UIAddr: o.UIAddr,
		Status: func() view.Status { return b.status(server.Problems) },
		Ready:  b.ready, Topology: b.topology, Matrix: b.matrix, Alive: b.alive,
		Reconcile: latch.Set, Rotate: b.rotate, Forget: b.forget, Join: o.joining(hosts), Log: log, LogLevel: level,
		Timings: timings, Kinds: mesh.Kinds(), Reasons: slices.Concat(mesh.Refusals(), gossip.Reasons()),
	})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server.Run(ctx) })
	s := &starter{options: o, board: b, group: group, hosts: hosts, timings: timings}
	group.Go(func() error {
		defer s.stop()
		if err := s.start(ctx); err != nil {
			return err
		}
		return s.agent.Run(ctx)
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = nil
	}
	log.Info("weaveguard-agent ends; tunnels, routes and rules stay")
	return err
}

func (s *starter) start(ctx context.Context) error {
	steps := []struct {
		subject string
		step    func(context.Context) error
	}{
		{"key store", s.openKeys},
		{"Kubernetes", s.startKube},
		{"own Node", s.findSelf},
		{"gossip keyring", s.findKeyring},
		{"pod range", s.findRanges},
		{"WireGuard", s.findWireGuard},
		{"gossip", s.startGossip},
	}
	for _, step := range steps {
		if err := s.await(ctx, step.subject, step.step); err != nil {
			return err
		}
	}
	s.startAgent(ctx)
	return nil
}

// stop undoes what outlives the context: the others are told that this agent leaves, and the key store is let go.
func (s *starter) stop() {
	if s.gossip != nil {
		ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
		defer cancel()
		if err := s.gossip.Stop(ctx); err != nil {
			s.log.Warn("leaving the gossip", "error", err)
		}
	}
	if s.store != nil {
		if err := s.store.Close(); err != nil {
			s.log.Warn("closing the key store", "error", err)
		}
	}
}

func (s *starter) openKeys(context.Context) error {
	store, err := keys.Open(s.StateDir)
	if err != nil {
		return err
	}
	s.store = store
	s.remembered, err = mesh.Recall(s.cachePath())
	if err != nil {
		s.log.Warn("starting without what was known before", "error", err)
	}
	generations := store.Generations()
	newest := generations[len(generations)-1]
	s.log.Info("keys are loaded", "identity", store.Identity().Public(), "generation", newest.Number,
		"publicKey", newest.Private.Public(), "remembered", len(s.remembered.Nodes))
	return nil
}

func (s *starter) cachePath() string   { return filepath.Join(s.StateDir, contract.CacheFile) }
func (s *starter) keyringPath() string { return filepath.Join(s.StateDir, "keyring") }

func (s *starter) startKube(ctx context.Context) error {
	if !s.Kubernetes {
		return nil
	}
	kube.RouteLogs(s.log)
	client, metadata, err := kube.Clients(s.Kubeconfig, contract.Version())
	if err != nil {
		return err
	}
	s.kube = kube.New(kube.Config{
		Client: client, Metadata: metadata, Node: s.NodeName, Namespace: s.Namespace, Log: s.log, Changed: s.latch.Set,
		Claims: s.claims(s.remembered.Self),
		Rotate: func() error {
			_, err := s.rotate(false)
			return err
		},
	})
	s.group.Go(func() error { return s.kube.Run(ctx) })
	return nil
}

// asking is the context of one question to the API server, for which there is an answer of the last start or not. A node whose
// agent starts while the server is away carries traffic soon all the same.
func (s *starter) asking(ctx context.Context, answered bool) (asking context.Context, done func()) {
	patience := apiPatience
	switch {
	case answered && s.silent:
		patience = silentPatience
	case answered:
		patience = syncPatience
	}
	asking, cancel := context.WithTimeout(ctx, patience)
	return asking, func() {
		s.silent = s.silent || errors.Is(asking.Err(), context.DeadlineExceeded)
		cancel()
	}
}

// findKeyring reads the gossip keyring, and keeps a copy for a start without the API server.
func (s *starter) findKeyring(ctx context.Context) error {
	if s.kube == nil {
		ring, err := keys.LoadKeyring(s.GossipKeyFile)
		s.ring = keys.NewFollowed(ring)
		return err
	}
	kept, errKept := keys.LoadKeyring(s.keyringPath())
	asking, done := s.asking(ctx, errKept == nil)
	defer done()
	ring, err := s.kube.Keyring(asking, kept)
	if err == nil {
		s.ring = keys.ResumeFollowed(kept, ring, time.Now())
		s.unkept = keepKeyring(s.ring.Ring(), s.keyringPath()) // tried again: see followKeyring
		return nil
	}
	if errKept != nil {
		return err
	}
	s.log.Warn("the gossip keyring is the one of the last start", "error", err)
	s.ring = keys.NewFollowed(kept)
	faulty := (*kube.KeyringError)(nil)
	s.unread = !errors.As(err, &faulty)
	return nil
}

// findRanges finds the configured pod ranges, if there are any.
func (s *starter) findRanges(ctx context.Context) error {
	s.ranges, s.source = s.podRanges, "--pod-range"
	if claims := s.plainClaims(); len(s.ranges) == 0 && len(claims) > 0 {
		s.ranges, s.source = []netip.Prefix{claims[0].Prefix}, "what is claimed from by default"
	}
	if len(s.ranges) > 0 || s.kube == nil {
		return nil
	}
	asking, done := s.asking(ctx, s.remembered.Self.Node == s.NodeName)
	defer done()
	subnets, err := s.kube.PodSubnet(asking)
	if err != nil {
		s.log.Warn("the pod range is the one of the last start", "error", err)
		s.ranges, s.source = s.remembered.PodRanges, s.remembered.PodRangeSource
		return nil
	}
	s.ranges, s.source = subnets, "kubeadm's podSubnet"
	return nil
}

// findWireGuard chooses who makes the tunnel devices.
func (s *starter) findWireGuard(ctx context.Context) error {
	daemon := userspace.NewClient(s.userspaceSocket())
	kernel := s.WireGuard == tunnel.Kernel
	if s.WireGuard == "auto" {
		has, err := route.HasKernelWireGuard(ctx)
		if err != nil {
			return fmt.Errorf("looking for WireGuard in the kernel: %w", err)
		}
		// Tunnels that the daemon carries stay there, also when the kernel has learnt WireGuard since.
		devices, err := daemon.List(ctx)
		kernel = has && (err != nil || len(devices) == 0)
	}
	s.maker, s.kind = tunnel.Maker(daemon), tunnel.Userspace
	if kernel {
		s.maker, s.kind = route.KernelMaker{}, tunnel.Kernel
	} else {
		awaitDaemon(ctx, func(ctx context.Context) error {
			_, err := daemon.List(ctx)
			return err
		})
	}
	s.log.Info("WireGuard is found", "kind", s.kind)
	return nil
}

func (s *starter) startGossip(context.Context) error {
	g, err := gossip.Start(gossip.Config{
		Node: s.NodeName, Advertise: s.addresses[0], Port: contract.GossipPort, Keyring: s.ring.Ring(), Log: s.log, Changed: s.latch.Set,
		ClockOffset: s.ClockOffset,
	})
	if err != nil {
		return err
	}
	s.gossip = g
	s.followKeyring()
	return nil
}

// followKeyring makes gossip use the keyring as an operator changes it.
func (s *starter) followKeyring() {
	var source keyringSource = &keyringFile{path: s.GossipKeyFile}
	if s.kube != nil {
		source = keyringSecret{s.kube}
	}
	s.followKeyringOf(source, s.gossip.SetKeyring, s.latch.Set)
}

func (s *starter) followKeyringOf(source keyringSource, use func(keys.Keyring) error, changed func()) {
	s.keyring = newKeyringFollower(source, s.ring, use)
	s.keyring.changed, s.keyring.unread = changed, s.unread
	if s.kube != nil {
		s.keyring.keep = func(ring keys.Keyring) error { return keepKeyring(ring, s.keyringPath()) }
	}
	if s.unkept != nil {
		s.keyring.say(s.keyring.explain(&unkeptError{s.unkept}))
	}
	s.ring = nil // the follower has it
}

func (o *options) attachConfig(log *slog.Logger) attach.Config {
	return attach.Config{
		ReadyFile: filepath.Join(o.RunDir, "cni.json"), ConfDir: o.CNIConfDir, BinDir: o.CNIBinDir, PluginDir: o.PluginDir,
		StoreDir: filepath.Join(o.RunDir, "cni"), Log: log,
	}
}

// startAgent makes the loop, and hooks it to what changes.
func (s *starter) startAgent(ctx context.Context) {
	cniFiles := s.attachConfig(s.log)
	files := attach.New(cniFiles)
	network := route.New(route.Config{Log: s.log, SysctlRoot: s.SysctlRoot, StoreDir: cniFiles.StoreDir})
	rules := firewall.New(firewall.Config{StoreDir: cniFiles.StoreDir, Log: s.log})
	config := mesh.Config{
		Node: s.NodeName, Bridge: s.Bridge, BasePort: contract.BasePort, MTU: s.MTU, WireGuard: s.kind,
		GossipAddress: s.addresses[0], PodCIDRs: s.podCIDRs, Claims: s.plainClaims(), Hosts: s.hosts, PodRanges: s.ranges, PodRangeSource: s.source,
		CachePath: s.cachePath(), Remembered: s.remembered, Version: contract.Version(), Log: s.log, Latch: s.latch,
		RotateEvery: s.RotateEvery, Silent: s.SilentAfter, AllowPodsTo: s.AllowPodsTo, OwnPorts: s.ownPorts,
		Keys:     s.store,
		Gossip:   gossipAdapter{s.gossip, netip.AddrPortFrom(s.addresses[0], contract.GossipPort), s.keyring},
		Network:  network,
		Tunnels:  tunnel.New(tunnel.Config{Maker: s.maker, Private: s.store.Private, Kind: s.kind, Log: s.log}),
		Firewall: rules,
		Attach:   attachAdapter{files},
		Timings:  s.timings, Usage: files, Traffic: network,
	}
	if s.kube != nil {
		config.Cluster = &clusterAdapter{Kube: s.kube}
	}
	if s.kube == nil || s.address.IsValid() {
		config.Addresses = slices.Clone(s.addresses)
	}
	networks := netconf.New(netconf.Config{
		Dir: s.NetworksDir, Bridge: s.Bridge, SysctlRoot: s.SysctlRoot, Kept: filepath.Join(s.StateDir, contract.NetworksFile), Changed: s.latch.Set, Log: s.log,
	})
	config.Networks = networks
	paths := path.New(path.Config{Send: s.gossip.Probe, Changed: s.latch.Set, Log: s.log})
	meter := path.NewMeter(s.gossip.Probe)
	s.gossip.OnAnswer(func(id uint64) {
		paths.Answered(id)
		meter.Answered(id)
	})
	config.Paths, config.Meter = paths, meter
	s.board.run(mesh.New(config))
	if s.kube == nil {
		s.group.Go(func() error { return s.hosts.Run(ctx) })
	}
	s.group.Go(func() error { return paths.Run(ctx) })
	s.group.Go(func() error { return meter.Run(ctx) })
	s.group.Go(func() error { return networks.Run(ctx) })
	s.group.Go(func() error { return s.keyring.run(ctx) })
	s.group.Go(func() error { return network.Watch(ctx, s.latch.Set) })
	s.group.Go(func() error { return rules.Watch(ctx, s.latch.Set) })
	s.group.Go(func() error { return files.Watch(ctx, s.latch.Set) })
}

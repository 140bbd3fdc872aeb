package agents_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// says waits until the status of a node has a problem with all these words and a remedy, or none is needed.
func says(t *testing.T, n *agents.Node, words ...string) {
	t.Helper()
	lab.Eventually(t, 20*time.Second, fmt.Sprintf("%s says %q", n.Name, words), func() error {
		s, err := n.Status(t.Context())
		if err != nil {
			return err
		}
		for _, p := range s.Problems {
			text := p.String()
			missing := ""
			for _, word := range words {
				if !strings.Contains(text, word) {
					missing = word
				}
			}
			if missing == "" {
				return nil
			}
		}
		return fmt.Errorf("its problems are %v", s.Problems)
	})
}

// A host with another gossip key hears and says nothing, and both sides name the other.
func TestWrongGossipKey(t *testing.T) {
	t.Parallel()
	m := agents.Up(t, 2)
	stranger, err := m.Lab.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	n := m.Adopt(stranger)
	key := m.Lab.Dir() + "/other.key"
	agents.WriteKey(t, key)
	n.Args = []string{"--gossip-key-file", key}
	n.Start(t)
	says(t, m.Nodes[0], n.Addr4.String(), "gossip", "key")
	if err := m.Nodes[0].Peers(t.Context(), m.Nodes[1]); err != nil {
		t.Errorf("the others: %v", err)
	}
}

// Weave Net's bridge is called weave too: it isn't touched, and named for what it is.
func TestForeignBridge(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 1)
	n := m.Nodes[0]
	n.MustRun(t, "ip", "link", "add", "weave", "type", "bridge")
	n.MustRun(t, "ip", "link", "add", "vethwepl12345", "type", "veth", "peer", "name", "far")
	n.MustRun(t, "ip", "link", "set", "vethwepl12345", "master", "weave")
	before := n.MustRun(t, "ip", "-d", "link", "show", "weave")
	n.Start(t)
	says(t, n, "weave", "Weave Net", "cleanup --weave-net")
	if after := n.MustRun(t, "ip", "-d", "link", "show", "weave"); after != before {
		t.Errorf("the bridge was touched:\n%s%s", before, after)
	}
	n.MustRun(t, "ip", "link", "delete", "weave")
	lab.Eventually(t, 20*time.Second, "the node is ready once the bridge is gone", func() error { return n.Peers(t.Context()) })
}

// A route that leads part of the pod CIDR elsewhere is named, and the node goes on once it is gone.
func TestOverlappingRoute(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 1)
	n := m.Nodes[0]
	n.MustRun(t, "ip", "route", "add", "10.32.1.64/26", "via", "10.99.0.200")
	n.Start(t)
	says(t, n, "10.32.1.0/24", "10.32.1.64/26", "10.99.0.200")
	n.MustRun(t, "ip", "route", "delete", "10.32.1.64/26")
	lab.Eventually(t, 20*time.Second, "the node is ready once the route is gone", func() error { return n.Peers(t.Context()) })
}

// Of two hosts with overlapping pod CIDRs one keeps its own, both say so, and the rest of the mesh is none the worse.
func TestOverlappingPodCIDRs(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 3)
	m.Nodes[1].CIDRs[0] = netip.PrefixFrom(m.Nodes[0].CIDR.Addr(), 25)
	for _, n := range m.Nodes {
		n.Start(t)
	}
	for _, n := range m.Nodes {
		says(t, n, "h2", "10.32.1.0/25", "10.32.1.0/24 of node h1")
	}
	a, b := m.Nodes[0].AddPod(t, "pod"), m.Nodes[2].AddPod(t, "pod")
	lab.Eventually(t, time.Minute, "the others reach each other", func() error {
		_, err := a.Run(t.Context(), "ping", "-c", "1", "-W", "1", b.Addr.String())
		return err
	})
	if s, err := m.Nodes[1].Status(t.Context()); err != nil || s.Ready {
		t.Errorf("the host whose pod CIDR is another's attaches pods (%v)", err)
	}
}

// A key file that can't be read is named and left as it is; tunnels that stand go on, and so does the node once the
// file is whole again.
func TestCorruptKeyFile(t *testing.T) {
	t.Parallel()
	m := agents.Up(t, 2)
	n := m.Nodes[0]
	f := flow(t, n.AddPod(t, "pod"), m.Nodes[1].AddPod(t, "pod"), "corrupt")
	if err := n.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	const file = "/var/lib/weaveguard/keys.json"
	n.MustRun(t, "sh", "-c", "cp "+file+" /run/whole && head -c 60 /run/whole > "+file)
	n.StartAgent(t)
	says(t, n, file, "move it away")
	f.Send(t, 500)
	if size := strings.TrimSpace(n.MustRun(t, "stat", "-c", "%s", file)); size != "60" {
		t.Errorf("the corrupt file was changed: it has %s bytes", size)
	}
	n.MustRun(t, "cp", "/run/whole", file)
	lab.Eventually(t, 30*time.Second, "the node goes on with its keys", func() error { return n.Peers(t.Context(), m.Nodes[1]) })
	if report := f.Stop(t); report.Lost() != 0 {
		t.Errorf("lost on the way: %s", report)
	}
}

// Without WireGuard in the kernel and without the userspace daemon, or a TUN for it, the node says so, attaches
// nothing, and goes on when it is there.
func TestNoWireGuard(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 1)
	n := m.Nodes[0]
	n.Args = []string{"--wireguard", "userspace"}
	n.StartAgent(t)
	says(t, n, "/run/weaveguard/userspace.sock", "weaveguard-userspace")
	n.MustRun(t, "mount", "-t", "tmpfs", "tmpfs", "/dev/net")
	n.StartUserspace(t)
	says(t, n, "/dev/net/tun")
	if s, err := n.Status(t.Context()); err != nil || s.Ready {
		t.Errorf("ready without a tunnel device (%v)", err)
	}
	n.MustRun(t, "umount", "/dev/net")
	lab.Eventually(t, time.Minute, "the node is ready once there is a TUN", func() error { return n.Peers(t.Context()) })
}

// Flags that can't be used end the agent at once, with an error that names them.
func TestBadFlags(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 1)
	n := m.Nodes[0]
	for want, args := range map[string][]string{
		"--gossip-key-file":           nil,
		`--pod-cidr: "10.32.5.1/24"`:  {"--gossip-key-file", "/x", "--pod-cidr", "10.32.5.1/24"},
		`--wireguard is "no"`:         {"--gossip-key-file", "/x", "--wireguard", "no"},
		`--mtu is 5`:                  {"--gossip-key-file", "/x", "--mtu", "5"},
		`--address is "localhost"`:    {"--gossip-key-file", "/x", "--address", "localhost"},
		`--log-level is "loud"`:       {"--gossip-key-file", "/x", "--log-level", "loud"},
		`--node-name is "Node_1"`:     {"--gossip-key-file", "/x", "--node-name", "Node_1"},
		"both come from there":        {"--kubernetes", "--pod-cidr", "10.32.5.0/24"},
		"unknown flag: --nonsense":    {"--nonsense"},
		`unknown command "nonsense"`:  {"nonsense"},
		"more than one range":         {"--gossip-key-file", "/x", "--pod-cidr", "10.32.5.0/24,10.32.6.0/24"},
		`--bridge is "a-bridge-that-`: {"--gossip-key-file", "/x", "--bridge", "a-bridge-that-has-a-long-name"},
	} {
		out, err := n.RunAgent(t.Context(), args...)
		if err == nil || !strings.Contains(err.Error()+out, want) {
			t.Errorf("weaveguard-agent %v: %v, want an error with %q", args, err, want)
		}
		if err != nil && errors.Is(err, t.Context().Err()) {
			t.Errorf("weaveguard-agent %v didn't end", args)
		}
	}
}

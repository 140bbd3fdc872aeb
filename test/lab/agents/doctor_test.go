package agents_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// diagnosis is what doctor has to say of a fault.
type diagnosis struct {
	cause  string // in the finding's subject or message
	remedy string
	after  int // how many findings may come before it
}

// finds waits until `weaveguard doctor` on a node names a cause and its remedy in its first lines, and says by its exit status
// whether something is wrong.
func finds(t *testing.T, n *agents.Node, d diagnosis) {
	t.Helper()
	took := lab.Eventually(t, 40*time.Second, fmt.Sprintf("doctor on %s finds %q", n.Name, d.cause), func() error {
		out, err := n.Run(t.Context(), lab.Build(t, "./cmd/weaveguard"), "doctor", "--width", "80")
		wrong := strings.Contains(out, "\nwrong: ")
		if wrong && (err == nil || !strings.Contains(err.Error(), "exit status 1")) || !wrong && err != nil {
			return fmt.Errorf("it ended with %v, want exit status 1 if something is wrong, and else 0:\n%s", err, out)
		}
		findings := strings.Split(out, "\n\n")[1:] // behind the headline
		for _, text := range findings[:min(d.after+1, len(findings))] {
			text = strings.Join(strings.Fields(text), " ")
			problem, remedy, _ := strings.Cut(text, "what to do:")
			if strings.Contains(problem, d.cause) && strings.Contains(remedy, d.remedy) {
				return nil
			}
		}
		return fmt.Errorf("want the cause %q and the remedy %q:\n%s", d.cause, d.remedy, out)
	})
	t.Logf("doctor on %s found it after %.1f s", n.Name, took.Seconds())
}

// Each of these situations is found by `weaveguard doctor` on a node that it concerns, with its cause and its remedy.
func TestDoctor(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]func(t *testing.T){
		"mended one after the other": brokenAndMended,
		"blocked UDP port":           blockedPort,
		"wrong gossip key":           wrongKey,
		"clashing CIDR":              clashingCIDR,
		"MTU too small on the path":  narrowPath,
		"two nodes with one name":    twoOfOneName,
		"unreachable API":            unreachableAPI,
		"no WireGuard and no TUN":    noWireGuard,
		"clock an hour off":          wrongClock,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}

// brokenAndMended are those that leave nothing behind: a full range, settings and peers that some other program keeps changing,
// and a strict filter while no agent runs.
func brokenAndMended(t *testing.T) {
	m := agents.New(t, 2)
	m.Nodes[1].CIDRs[0] = netip.PrefixFrom(m.Nodes[1].CIDR.Addr(), 30)
	for _, n := range m.Nodes {
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	n, other := m.Nodes[0], m.Nodes[1]
	healthy := func() {
		t.Helper()
		lab.Eventually(t, time.Minute, "doctor finds nothing more", func() error {
			out, err := n.Run(t.Context(), lab.Build(t, "./cmd/weaveguard"), "doctor")
			if err == nil && !strings.HasPrefix(out, "nothing is wrong") {
				err = errors.New(out)
			}
			return err
		})
	}
	healthy()
	// As in the agent's pod, with its capabilities: there is less to see, and nothing is taken for wrong.
	bounds := "-all,+" + strings.Join(granted, ",+")
	out, err := n.RunCommand(t.Context(), lab.Command{
		Path: "setpriv", Args: []string{"--bounding-set", bounds, "--inh-caps", bounds, "--no-new-privs", "--", lab.Build(t, "./cmd/weaveguard"), "doctor"},
		Env: []string{"KUBERNETES_SERVICE_HOST=10.96.0.1"},
	})
	if err != nil || !strings.Contains(out, "not seen:") {
		t.Errorf("in the agent's pod: %v\n%s", err, out)
	}
	other.AddPod(t, "pod")
	finds(t, other, diagnosis{cause: "pod CIDR 10.32.2.0/30: it is full", remedy: "larger pod CIDR"})

	forwarding := hand(t, n, "echo 0 > /proc/sys/net/ipv4/ip_forward")
	finds(t, n, diagnosis{cause: "kernel setting net/ipv4/ip_forward: some other program keeps changing it", remedy: "grep -rs ip_forward"})
	forwarding()

	key := strings.TrimSpace(n.MustRun(t, "wg", "show", "weave-wg0", "peers"))
	removing := hand(t, n, "wg set weave-wg0 peer "+key+" remove")
	finds(t, n, diagnosis{cause: "some other program keeps changing it", remedy: "wg-quick", after: 1})
	removing()
	m.WaitUp(t, time.Minute)

	if err := n.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	n.MustRun(t, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/conf/weave-wg0/rp_filter")
	finds(t, n, diagnosis{cause: "agent: no agent", remedy: "systemctl start weaveguard"})
	finds(t, n, diagnosis{cause: "weave-wg0/rp_filter: it is 1", remedy: "start the agent", after: 1})
	n.MustRun(t, "sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_forward")
	finds(t, n, diagnosis{cause: "ip_forward: it is 0", remedy: "sysctl net.ipv4.ip_forward=1", after: 1})
	n.StartAgent(t)
	m.WaitUp(t, time.Minute)
}

// hand runs a command on a node again and again, until what it returns is called.
func hand(t *testing.T, n *agents.Node, command string) (stop func()) {
	t.Helper()
	p := n.MustStart(t, lab.Command{Name: "hand", Path: "sh", Args: []string{"-c", "while sleep 0.5; do " + command + "; done"}})
	return func() {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}

func blockedPort(t *testing.T) {
	m := agents.New(t, 2)
	for i, n := range m.Nodes {
		if _, err := m.Lab.BlockUDPBetween(n.Host, m.Nodes[1-i].Host, 51820); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range m.Nodes {
		n.Start(t)
	}
	finds(t, m.Nodes[0], diagnosis{
		cause:  "peer h2: no WireGuard packet gets through to it: a firewall blocks a UDP port between 10.99.0.2:51820",
		remedy: "let UDP ports 51820 to 51823 through",
	})
}

func wrongKey(t *testing.T) {
	m := agents.New(t, 2)
	key := filepath.Join(m.Lab.Dir(), "other.key")
	agents.WriteKey(t, key)
	m.Nodes[1].Args = []string{"--gossip-key-file", key}
	for _, n := range m.Nodes {
		n.Start(t)
	}
	for i, n := range m.Nodes {
		finds(t, n, diagnosis{
			cause: "gossip from " + m.Nodes[1-i].Addr.String() + ": it can't be decrypted: that node has another gossip key", remedy: "the same gossip key",
		})
	}
}

func clashingCIDR(t *testing.T) {
	m := agents.New(t, 2)
	m.Nodes[1].CIDRs[0] = m.Nodes[0].CIDR
	for _, n := range m.Nodes {
		n.Start(t)
	}
	for _, n := range m.Nodes {
		finds(t, n, diagnosis{cause: "node h2: pod CIDR 10.32.1.0/24 overlaps 10.32.1.0/24 of node h1", remedy: "another --pod-cidr"})
	}
}

func narrowPath(t *testing.T) {
	m := agents.New(t, 2)
	r := throughRouter(t, m, m.Nodes[0], m.Nodes[1])
	r.mute(t)
	r.narrow(t, narrow.mtu)
	for _, n := range m.Nodes {
		n.Start(t)
	}
	finds(t, m.Nodes[0], diagnosis{cause: fmt.Sprintf("interfaces say: %d bytes to h2", narrow.path), remedy: "raise the MTU"})
}

func twoOfOneName(t *testing.T) {
	m := agents.New(t, 2)
	m.Nodes[1].Args = []string{"--node-name", m.Nodes[0].Name}
	for _, n := range m.Nodes {
		n.Start(t)
	}
	finds(t, m.Nodes[0], diagnosis{cause: "node h1: a member that says it is at 10.99.0.2 announces that it is h1 too", remedy: "give each host a name of its own"})
}

func unreachableAPI(t *testing.T) {
	m := agents.New(t, 1)
	n := m.Nodes[0]
	config := filepath.Join(m.Lab.Dir(), "kubeconfig")
	content, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "lab",
		"clusters": []any{map[string]any{"name": "lab", "cluster": map[string]any{"server": "https://10.99.0.250:6443"}}},
		"contexts": []any{map[string]any{"name": "lab", "context": map[string]any{"cluster": "lab"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, content, 0o600); err != nil {
		t.Fatal(err)
	}
	agent := m.AgentCommand(n.Addr, nil)[0]
	n.MustStart(t, lab.Command{Name: "agent", Path: agent, Args: []string{"--kubernetes", "--kubeconfig", config, "--node-name", n.Name}})
	finds(t, n, diagnosis{cause: "Kubernetes API server: it doesn't answer", remedy: "see whether this node reaches the API server"})
}

func noWireGuard(t *testing.T) {
	m := agents.New(t, 1)
	if m.Kernel {
		return // the kernel has it
	}
	n := m.Nodes[0]
	n.MustRun(t, "mount", "-t", "tmpfs", "tmpfs", "/dev/net")
	n.Start(t)
	finds(t, n, diagnosis{cause: "has no WireGuard, and there is no /dev/net/tun", remedy: "`modprobe wireguard`"})
}

func wrongClock(t *testing.T) {
	m := agents.New(t, 2)
	m.Nodes[1].Args = []string{"--clock-offset", time.Hour.String()}
	for _, n := range m.Nodes {
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	finds(t, m.Nodes[0], diagnosis{cause: "node h2: its clock is 1 h ahead of this node's", remedy: "by NTP"})
	lab.Eventually(t, 20*time.Second, "the status has the round trip and the clock of h2", func() error {
		s, err := m.Nodes[0].Status(t.Context())
		if err != nil || len(s.Peers) != 1 || s.Peers[0].ClockOffset == nil || s.Peers[0].RTT <= 0 || s.Peers[0].RTT > 10 {
			return fmt.Errorf("it says %+v, %w", s.Peers, err)
		}
		if offset := *s.Peers[0].ClockOffset; offset < 3590 || offset > 3610 {
			return fmt.Errorf("the clock of h2 is %v s ahead, want 3600", offset)
		}
		return nil
	})
}

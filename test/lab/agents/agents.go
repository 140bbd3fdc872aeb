// Package agents runs Weaveguard on the hosts of a lab, as an operator would without Kubernetes: the agent, the
// userspace WireGuard daemon where the kernel has no WireGuard, the CNI plugin and the CLI are the real programs.
package agents

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
)

// Mesh is a lab whose hosts run Weaveguard.
type Mesh struct {
	Lab    *lab.Lab
	Nodes  []*Node
	Kernel bool // the kernel has WireGuard

	options Options

	programs Programs
	keyFile  string
	secrets  watch
}

// Node is one host with its agent.
type Node struct {
	*lab.Host
	Addr  netip.Addr     // on the underlay, as the agent is told it
	CIDR  netip.Prefix   // the first of CIDRs
	CIDRs []netip.Prefix // of its pods, one of each of the pods' families, IPv4 first
	Args  []string       // of the agent, beside the usual ones
	// Capabilities are all that the node's programs have, such as "net_admin"; nil: all that root has.
	Capabilities []string
	// Programs are the node's own, if not the zero value: those of another version.
	Programs Programs

	mesh      *Mesh
	Agent     *lab.Process
	Userspace *lab.Process // nil where the kernel has WireGuard
}

// New opens a lab and puts what the agents need on its hosts, for pods with IPv4 on hosts whose agents talk by IPv4. No
// agent runs yet.
func New(t testing.TB, hosts int) *Mesh {
	t.Helper()
	return NewOf(t, hosts, Options{})
}

// NewOf is like New, with other address families.
func NewOf(t testing.TB, hosts int, o Options) *Mesh {
	t.Helper()
	m := &Mesh{Lab: lab.New(t, lab.Options{Hosts: hosts, V6Only: o.Underlay == IPv6}), options: o}
	kernel, err := m.Lab.KernelWireGuard()
	if err != nil {
		t.Fatal(err)
	}
	m.Kernel = kernel
	m.programs = Programs{Agent: lab.Build(t, "./cmd/weaveguard-agent"), Plugins: pluginDir(t, map[string]string{
		"weaveguard":         lab.Build(t, "./cmd/weaveguard-cni"),
		"weaveguard-portmap": lab.Build(t, portmap),
	})}
	m.keyFile = filepath.Join(m.Lab.Dir(), "gossip.key")
	WriteKey(t, m.keyFile)
	for _, h := range m.Lab.Hosts {
		m.Adopt(h)
	}
	m.watchSecrets(t)
	return m
}

// Up opens a lab with running agents, and waits until all links have a session.
func Up(t testing.TB, hosts int) *Mesh {
	t.Helper()
	return UpOf(t, hosts, Options{})
}

// UpOf is like Up, with other address families.
func UpOf(t testing.TB, hosts int, o Options) *Mesh {
	t.Helper()
	m := NewOf(t, hosts, o)
	for _, n := range m.Nodes {
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	return m
}

// WriteKey writes a file with a new gossip key.
func WriteKey(t testing.TB, path string) {
	t.Helper()
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		t.Fatal(err)
	}
	text := base64.StdEncoding.EncodeToString(key) + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Adopt makes a host of the lab a node, without starting its agent.
func (m *Mesh) Adopt(h *lab.Host) *Node {
	n := &Node{Host: h, mesh: m, Addr: h.Addr4, CIDRs: cidrsOf(m.options.Pods, len(m.Nodes)+1)}
	if m.options.Underlay == IPv6 {
		n.Addr = h.Addr6
	}
	n.CIDR = n.CIDRs[0]
	m.Nodes = append(m.Nodes, n)
	return n
}

// Join adds a host to the lab and starts its agent.
func (m *Mesh) Join(t testing.TB) *Node {
	t.Helper()
	h, err := m.Lab.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	n := m.Adopt(h)
	n.Start(t)
	return n
}

// Start starts the node's programs.
func (n *Node) Start(t testing.TB) {
	t.Helper()
	if !n.mesh.Kernel && n.Userspace == nil {
		n.StartUserspace(t)
	}
	n.StartAgent(t)
}

// StartUserspace starts the userspace WireGuard daemon.
func (n *Node) StartUserspace(t testing.TB) {
	t.Helper()
	command := n.confined(lab.Command{Name: "userspace", Path: n.programs().Agent, Args: []string{"userspace"}})
	command.Carrier = true
	n.Userspace = n.MustStart(t, command)
}

// RunAgent runs the agent with these flags alone, to its end.
func (n *Node) RunAgent(ctx context.Context, args ...string) (string, error) {
	out, err := n.Run(ctx, n.programs().Agent, args...)
	n.mesh.secrets.keep("the agent on "+n.Name, fmt.Sprint(out, err))
	return out, err
}

// api speaks to the agent's socket, from outside of the host.
func (n *Node) api() *api.Client {
	return &api.Client{Socket: fmt.Sprintf("/proc/%d/root%s", n.InitPID(), contract.AgentSocket)}
}

// Reconcile makes the agent's loop run.
func (n *Node) Reconcile(ctx context.Context) error { return n.api().Reconcile(ctx) }

// Status is what the agent says of itself.
func (n *Node) Status(ctx context.Context) (view.Status, error) { return n.api().Status(ctx) }

// Matrix asks the node's agent how all nodes see the ways to each other.
func (n *Node) Matrix(ctx context.Context) (view.Matrix, error) { return n.api().Matrix(ctx) }

// StartAgent starts the agent alone.
func (n *Node) StartAgent(t testing.TB) {
	t.Helper()
	var others []netip.Addr
	for _, other := range n.mesh.Nodes {
		if other != n {
			others = append(others, other.Addr)
		}
	}
	command := n.mesh.agentCommand(n.programs(), n.Addr, n.CIDRs, others...)
	n.Agent = n.MustStart(t, n.confined(lab.Command{Name: "agent", Path: command[0], Args: append(command[1:], n.Args...)}))
}

// AgentCommand is the agent of a node at an address, with pod CIDRs and peers, also of one that isn't a host of the lab.
func (m *Mesh) AgentCommand(address netip.Addr, cidrs []netip.Prefix, peers ...netip.Addr) []string {
	return m.agentCommand(m.programs, address, cidrs, peers...)
}

func (m *Mesh) agentCommand(p Programs, address netip.Addr, cidrs []netip.Prefix, peers ...netip.Addr) []string {
	command := []string{
		p.Agent, "--address", address.String(), "--gossip-key-file", m.keyFile, "--plugin-dir", p.Plugins,
	}
	for _, cidr := range cidrs {
		command = append(command, "--pod-cidr", cidr.String())
	}
	for _, r := range m.PodRanges() {
		command = append(command, "--pod-range", r.String())
	}
	for _, peer := range peers {
		command = append(command, "--peers", peer.String())
	}
	return command
}

// confined is the command with the node's capabilities alone, and no way to get others, as a container has it.
func (n *Node) confined(c lab.Command) lab.Command {
	if n.Capabilities == nil {
		return c
	}
	bounds := "-all"
	for _, capability := range n.Capabilities {
		bounds += ",+" + capability
	}
	c.Args = append([]string{"--bounding-set", bounds, "--inh-caps", bounds, "--no-new-privs", "--", c.Path}, c.Args...)
	c.Path = "setpriv"
	return c
}

// CLI runs the operator's CLI on the node.
func (n *Node) CLI(t testing.TB, args ...string) string {
	t.Helper()
	out := n.MustRun(t, lab.Build(t, "./cmd/weaveguard"), args...)
	n.mesh.secrets.keep("the CLI on "+n.Name, out)
	return out
}

// Peers returns an error until the node is ready and its peers are exactly the others, all up.
func (n *Node) Peers(ctx context.Context, others ...*Node) error {
	s, err := n.Status(ctx)
	if err != nil {
		return err
	}
	if !s.Ready {
		return fmt.Errorf("%s isn't ready: %v", n.Name, s.Problems)
	}
	if len(s.Peers) != len(others) {
		return fmt.Errorf("%s has %d peers, want %d: %+v", n.Name, len(s.Peers), len(others), s.Peers)
	}
	for _, p := range s.Peers {
		if !p.Up {
			return fmt.Errorf("%s: peer %s isn't up: %s", n.Name, p.Node, p.Reason)
		}
	}
	return nil
}

// WaitUp waits until all nodes have all others as peers, with sessions.
func (m *Mesh) WaitUp(t testing.TB, deadline time.Duration) time.Duration {
	t.Helper()
	defer m.learnSecrets()
	return lab.Eventually(t, deadline, "all links are up", func() error {
		for _, n := range m.Nodes {
			if err := n.Peers(t.Context(), m.others(n)...); err != nil {
				return err
			}
		}
		return nil
	})
}

func (m *Mesh) others(n *Node) []*Node {
	var others []*Node
	for _, other := range m.Nodes {
		if other != n {
			others = append(others, other)
		}
	}
	return others
}

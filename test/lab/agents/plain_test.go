package agents_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// plainPage are the commands of docs/plain-hosts.md, in order. The word behind sh says where they are run.
func plainPage(t *testing.T) []block {
	t.Helper()
	root, err := lab.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "docs", "plain-hosts.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []block
	for i, part := range strings.Split(string(raw), "```") {
		language, text, _ := strings.Cut(part, "\n")
		if where, shell := strings.CutPrefix(language, "sh "); i%2 == 1 && shell {
			blocks = append(blocks, block{where, text})
		}
	}
	return blocks
}

// pack runs the page's commands on the machine that builds, where make has run, and returns the file that they leave.
func pack(t *testing.T, commands string) string {
	t.Helper()
	root, err := lab.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bin := filepath.Join(dir, "build", "bin", "linux_"+runtime.GOARCH)
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, program := range map[string]string{
		"weaveguard": "./cmd/weaveguard", "weaveguard-agent": "./cmd/weaveguard-agent", "weaveguard-cni": "./cmd/weaveguard-cni",
		"weaveguard-portmap": "github.com/containernetworking/plugins/plugins/meta/portmap",
	} {
		built, err := os.ReadFile(lab.Build(t, program)) // other tests link to that file, for which tar would call it changed
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(bin, name), built, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(root, "deploy"), filepath.Join(dir, "deploy")); err != nil {
		t.Fatal(err)
	}
	// The directory is a link here, which tar is to follow, and the programs' architecture is this one's.
	prelude := fmt.Sprintf("make() { [ \"$*\" = build ]; }\ngo() { echo %s; }\ntar() { command tar --dereference \"$@\"; }\n", runtime.GOARCH)
	cmd := exec.CommandContext(t.Context(), "sh", "-e", "-c", prelude+commands)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("packing: %v\n%s", err, out)
	}
	return filepath.Join(dir, "weaveguard.tar")
}

// page follows docs/plain-hosts.md: at each call the next of its blocks, which has to be for where the test is.
type page struct {
	t      *testing.T
	hosts  []*agents.PlainHost
	blocks []block
}

// next runs the next block. It returns what was printed, by host.
func (p *page) next(where, contains string) []string {
	p.t.Helper()
	if len(p.blocks) == 0 || p.blocks[0].language != where || !strings.Contains(p.blocks[0].text, contains) {
		p.t.Fatalf("the page goes on with %+v, and this test with %q on %s", p.blocks[:min(1, len(p.blocks))], contains, where)
	}
	text := p.blocks[0].text
	p.blocks = p.blocks[1:]
	return p.run(where, text)
}

func (p *page) run(where, text string) []string {
	p.t.Helper()
	on := map[string][]*agents.PlainHost{
		"every": p.hosts, "host-1": p.hosts[:1], "host-2": p.hosts[1:2], "host-3": p.hosts[2:], "leaving": p.hosts[2:], "staying": p.hosts[:2],
	}[where]
	if len(on) == 0 {
		p.t.Fatalf("there is no host %q", where)
	}
	var all []string
	for _, h := range on {
		all = append(all, h.Operate(p.t, text))
	}
	return all
}

// up waits until these hosts have each other.
func (p *page) up(hosts ...*agents.PlainHost) {
	p.t.Helper()
	for _, h := range hosts {
		var others []*agents.Node
		for _, other := range hosts {
			if other != h {
				others = append(others, other.Node)
			}
		}
		lab.Eventually(p.t, time.Minute, h.Name+" has its peers", func() error { return h.Peers(p.t.Context(), others...) })
	}
}

// The page takes three hosts to a mesh, literally: what is attached by hand and by a runtime talks across it, a key changes under
// traffic, a host that boots alone finds the others later, and one that leaves is let go.
func TestPlainHostsPage(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 3)
	p := &page{t: t, hosts: agents.PlainHosts(t, m), blocks: plainPage(t)}
	tarball := pack(t, p.blocks[0].text)
	p.blocks = p.blocks[1:]
	p.run("every", "cp "+tarball+" .")
	p.next("every", "install")
	p.next("host-1", "keyring add")
	p.next("every", "systemctl enable --now weaveguard")
	p.up(p.hosts...)
	for i, out := range p.next("every", "weaveguard status") {
		for _, want := range []string{"healthy: 2 of 2 peers are up", fmt.Sprintf("host-%d, ", i+1), "kubernetes absent"} {
			if !strings.Contains(strings.Join(strings.Fields(out), " "), want) {
				t.Errorf("the status of host-%d lacks %q:\n%s", i+1, want, out)
			}
		}
	}
	confined(t, p.hosts[0])
	attachBlocks := p.blocks[:2]
	p.attach(p.next("host-1", "attach web"), p.next("host-2", "ping"))

	p.rotate()
	if !shortened() { // as it has little to do with the kernel
		p.boots(attachBlocks)
	}

	if out := p.next("host-3", "weaveguard join"); !strings.Contains(out[0], "already") {
		t.Errorf("joining says %q", out[0])
	}
	p.next("leaving", "weaveguard-agent cleanup")
	if out := p.hosts[2].MustRun(t, "sh", "-c", "ip -brief link; ls /opt/cni/bin /etc/cni/net.d; nft list tables"); strings.Contains(out, "weave") {
		t.Errorf("on the host that left is still\n%s", out)
	}
	for _, out := range p.next("staying", "weaveguard forget") {
		if !strings.Contains(out, "host-3 is forgotten") {
			t.Errorf("forgetting says %q", out)
		}
	}
	p.up(p.hosts[:2]...)
	if len(p.blocks) > 0 {
		t.Errorf("the page goes on: %+v", p.blocks)
	}
}

// attach checks what the blocks that attach printed, and that a runtime's container on the third host reaches both.
func (p *page) attach(web, job []string) {
	p.t.Helper()
	if got := strings.TrimSpace(web[0]); got != "10.44.21.2" {
		p.t.Errorf("attach prints %q, want the address that the page pings", got)
	}
	if !strings.HasPrefix(job[0], "10.38.252.2\n") || !strings.Contains(job[0], " 0% packet loss") {
		p.t.Errorf("the second host's commands print %q", job[0])
	}
	pod, addresses := p.container()
	reach(p.t, pod.NetNS, netip.MustParseAddr("10.44.21.2"), netip.MustParseAddr("10.38.252.2"))
	for i, name := range []string{"web", "job"} {
		reach(p.t, p.netns(i, name), addresses...)
	}
	if _, err := pod.Delegate(p.t.Context(), "DEL", "eth0", ""); err != nil {
		p.t.Error(err)
	}
	if err := pod.Delete(p.t.Context()); err != nil {
		p.t.Error(err)
	}
}

// container attaches one on the third host as a runtime does, by libcni and what the agent wrote.
func (p *page) container() (*agents.Pod, []netip.Addr) {
	p.t.Helper()
	pod := p.hosts[2].NewPod(p.t, "container")
	addresses, err := pod.Delegate(p.t.Context(), "ADD", "eth0", "")
	if err != nil {
		p.t.Fatal(err)
	}
	return pod, addresses
}

func (p *page) netns(host int, name string) *lab.NetNS {
	p.t.Helper()
	ns, err := p.hosts[host].OpenNetNS(name)
	if err != nil {
		p.t.Fatal(err)
	}
	return ns
}

// rotate has the page's command change a key under traffic.
func (p *page) rotate() {
	p.t.Helper()
	flow := lab.StartFlow(p.t, lab.FlowOptions{
		From: p.netns(0, "web"), To: p.netns(1, "job"), Addr: netip.MustParseAddrPort("10.38.252.2:7000"), Rate: min(300, rate(p.t)),
	})
	if out := p.next("host-1", "weaveguard rotate"); !strings.Contains(out[0], "generation 1") {
		p.t.Errorf("rotating says %q", out[0])
	}
	if err := p.hosts[0].HasKey(p.t.Context(), 1); err != nil {
		p.t.Error(err)
	}
	flow.Send(p.t, uint64(min(300, rate(p.t))))
	if report := flow.Stop(p.t); report.Lost() != 0 || report.There.Sent == 0 {
		p.t.Errorf("lost on the way: %s", report)
	} else {
		p.t.Logf("rotation: %s", report)
	}
}

// boots boots one host while all others are off, and then the others.
func (p *page) boots(attach []block) {
	p.t.Helper()
	for _, h := range p.hosts {
		h.Off()
	}
	alone := p.hosts[2]
	alone.Reboot(p.t)
	lab.Eventually(p.t, time.Minute, "the host that boots alone is ready", func() error {
		s, err := alone.Status(p.t.Context())
		if err == nil && !s.Ready {
			err = fmt.Errorf("it isn't ready: %v", s.Problems)
		}
		return err
	})
	if err := alone.Peers(p.t.Context(), p.hosts[0].Node, p.hosts[1].Node); err == nil {
		p.t.Error("the hosts that are off are up")
	}
	p.hosts[0].Reboot(p.t)
	p.hosts[1].Reboot(p.t)
	p.up(p.hosts...)
	p.attach(p.run(attach[0].language, attach[0].text), p.run(attach[1].language, attach[1].text))
}

// confined checks that the agent has the capability that its unit gives it, and no other.
func confined(t *testing.T, h *agents.PlainHost) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.Service("weaveguard").PID()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapEff:\t0000000000001000", "CapBnd:\t0000000000001000", "NoNewPrivs:\t1"} { // bit 12: capabilities(7)
		if !strings.Contains(string(status), want) {
			t.Errorf("the agent lacks %q:\n%s", want, status)
		}
	}
}

// A host that knows nobody is told of another, also over a restart that forgets all else; one that is forgotten is out until it
// starts again, and one with a wiped disk is in when it was forgotten.
func TestJoinAndForget(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	start := func(n *agents.Node) { // without peers
		command := m.AgentCommand(n.Addr, n.CIDRs)
		n.Agent = n.MustStart(t, lab.Command{Name: "agent", Path: command[0], Args: command[1:]})
	}
	stop := func(n *agents.Node) {
		if err := n.Agent.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	up := func(what string) {
		t.Helper()
		lab.Eventually(t, time.Minute, "both are up, "+what, func() error {
			if err := a.Peers(t.Context(), b); err != nil {
				return err
			}
			return b.Peers(t.Context(), a)
		})
	}
	none := func(n *agents.Node, what string) {
		t.Helper()
		lab.Eventually(t, time.Minute, n.Name+" has no peer, "+what, func() error { return n.Peers(t.Context()) })
	}
	for _, n := range m.Nodes {
		if !m.Kernel {
			n.StartUserspace(t)
		}
		start(n)
	}
	none(a, "as it knows nobody")
	none(b, "as it knows nobody")
	a.CLI(t, "join", b.Addr.String())
	up("as one was told")

	stop(a)
	stop(b)
	for _, n := range m.Nodes {
		n.MustRun(t, "rm", "/var/lib/weaveguard/view.json")
		start(n)
	}
	up("as one remembers what it was told")

	if _, err := runCLI(t, a, "forget", b.Name); !complains(err, "still runs, at "+b.Addr.String()) {
		t.Errorf("forgetting a node that runs: %v", err)
	}
	stop(b)
	lab.Eventually(t, time.Minute, "the other one is forgotten", func() error {
		_, err := runCLI(t, a, "forget", b.Name)
		return err
	})
	none(a, "as it has forgotten it")
	if out := a.MustRun(t, "ip", "route", "show", b.CIDR.String()); out != "" {
		t.Errorf("there is still the route %s", out)
	}
	start(b)
	up("as the forgotten one started again")

	stop(b)
	b.MustRun(t, "sh", "-c", "rm -r /var/lib/weaveguard/*")
	start(b)
	says(t, a, "node "+b.Name, "another identity", "forget "+b.Name)
	a.CLI(t, "forget", b.Name)
	up("as the wiped one was let in")
	if s, err := a.Status(context.WithoutCancel(t.Context())); err != nil || len(s.Problems) > 0 {
		t.Errorf("problems are left: %v, %v", s.Problems, err)
	}
}

package agents_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/cmd/weaveguard/report"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// What the commands say of real agents and tunnels.
func TestCLI(t *testing.T) {
	t.Parallel()
	m := agents.UpOf(t, 3, agents.Options{Pods: agents.Dual})
	t.Run("peers", func(t *testing.T) { cliPeers(t, m) })
	t.Run("wg", func(t *testing.T) { cliWG(t, m) })
	t.Run("routes", func(t *testing.T) { cliRoutes(t, m) })
	t.Run("ping", func(t *testing.T) { cliPing(t, m) })
	t.Run("report", func(t *testing.T) { cliReport(t, m) })
}

func cliPeers(t *testing.T, m *agents.Mesh) {
	for i, n := range m.Nodes {
		table := n.CLI(t, "peers")
		for j, other := range m.Nodes {
			if i == j {
				continue
			}
			if !strings.Contains(table, "\n"+other.Name+" ") {
				t.Errorf("%s doesn't list %s:\n%s", n.Name, other.Name, table)
			}
			var peer view.PeerStatus
			read(t, n.CLI(t, "peers", other.Name, "-o", "json"), &peer)
			if !peer.Up || len(peer.Links) != 1 || !peer.Links[0].Carries || peer.Links[0].Device != peer.Device ||
				peer.Links[0].PublicKey != peer.PublicKey || peer.HandshakeAge < 0 || len(peer.PodCIDRs) != 2 {
				t.Errorf("%s says of %s: %+v", n.Name, other.Name, peer)
			}
		}
	}
}

func cliWG(t *testing.T, m *agents.Mesh) {
	for _, n := range m.Nodes {
		var devices []struct {
			Node  string
			Peers []struct {
				Node, Endpoint string
				AllowedIPs     []string
			}
		}
		read(t, n.CLI(t, "wg", "-o", "json"), &devices)
		if len(devices) != 1 || devices[0].Node != n.Name || len(devices[0].Peers) != len(m.Nodes)-1 {
			t.Fatalf("%s has the devices %+v", n.Name, devices)
		}
		for _, peer := range devices[0].Peers {
			for _, other := range m.Nodes {
				if other.Name == peer.Node && (!strings.HasPrefix(peer.Endpoint, other.Addr.String()+":") || len(peer.AllowedIPs) != 2) {
					t.Errorf("%s has for %s the peer %+v", n.Name, other.Name, peer)
				}
			}
		}
		// wg(8) has the same keys, and no names.
		text, keys := n.CLI(t, "wg"), n.MustRun(t, "wg", "show", "all", "peers")
		for line := range strings.Lines(keys) {
			key := strings.Fields(line)[1]
			if !strings.Contains(text, "peer: "+key+" (h") {
				t.Errorf("%s names no node for %s:\n%s", n.Name, key, text)
			}
		}
	}
}

// Who is cut off doesn't answer, and does again.
func cliPing(t *testing.T, m *agents.Mesh) {
	type answer struct {
		Node, Address, Error string
		Loss                 float64
		Avg                  float64 `json:"avgSeconds"`
	}
	for _, n := range m.Nodes {
		var answers []answer
		read(t, n.CLI(t, "ping", "all", "--count=3", "--interval=20ms", "-o", "json"), &answers)
		if len(answers) != 2*(len(m.Nodes)-1) {
			t.Errorf("%s pings %+v", n.Name, answers)
		}
		for _, a := range answers {
			if a.Loss != 0 || a.Avg <= 0 || a.Avg > 2 || a.Error != "" {
				t.Errorf("%s: %+v", n.Name, a)
			}
		}
	}
	a, b := m.Nodes[0], m.Nodes[1]
	device := strings.Fields(b.MustRun(t, "ip", "-o", "route", "get", a.Addr.String()))
	uplink := device[2] // ADDRESS dev UPLINK …
	b.MustRun(t, "ip", "link", "set", uplink, "down")
	out, err := a.Run(t.Context(), lab.Build(t, "./cmd/weaveguard"), "ping", "all", "--count=2", "--interval=20ms", "--timeout=1s")
	if err == nil || !strings.Contains(out, b.Name+" doesn't answer") || strings.Contains(out, m.Nodes[2].Name+" doesn't answer") {
		t.Errorf("while %s is cut off: %v\n%s", b.Name, err, out)
	}
	b.MustRun(t, "ip", "link", "set", uplink, "up")
	lab.Eventually(t, 30*time.Second, b.Name+" answers again", func() error {
		_, err := a.Run(t.Context(), lab.Build(t, "./cmd/weaveguard"), "ping", b.Name, "--count=1", "--timeout=1s")
		return err
	})
}

func read(t *testing.T, text string, value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), value); err != nil {
		t.Fatalf("%v:\n%s", err, text)
	}
}

// A report has what there is, and no secret, also where somebody has put one: as the alias of an interface, into a
// comment of a rule, and into the log, in parts and in other ways to write them.
func cliReport(t *testing.T, m *agents.Mesh) {
	n := m.Nodes[0]
	key, err := base64.StdEncoding.DecodeString(n.Keys(t).Generations[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	seed := base64.StdEncoding.EncodeToString(key)
	n.MustRun(t, "ip", "link", "set", "weave-wg0", "alias", seed)
	defer n.MustRun(t, "ip", "link", "set", "weave-wg0", "alias", "")
	n.MustRun(t, "nft", "add table ip seed; add table inet "+contract.FirewallTable+"; add chain inet "+contract.FirewallTable+
		" seed; add rule inet "+contract.FirewallTable+" seed counter comment \""+seed+"\"")
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	text := fmt.Sprintf("key=%s\nkey=%x\nkey=%v\npart=%x\nraw=%s\nnext=line\n", seed, key, key, key[5:23], key)
	if err := os.WriteFile(log, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "report.tar.gz")
	n.CLI(t, "report", "--file", path, "--log", log)
	archive, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer archive.Close()
	_, files, err := report.Read(archive)
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]string{}
	for _, f := range files {
		has[f.Name] = string(f.Text)
		m.CheckText(t, f.Name+" of the report", string(f.Text))
	}
	for name, want := range map[string]string{
		"status.txt": "3 nodes alive", "status.json": "\"ready\": true", "topology.json": "\"name\": \"h2\"", "doctor.txt": "fine:", "wg.txt": "(h2)",
		"links.txt":     "weave-wg0",
		"addresses.txt": n.CIDRs[0].Addr().Next().String() + "/32 dev weave-wg0", "routes.txt": m.Nodes[1].CIDRs[1].String() + " dev weave-wg0 proto 213",
		"rules.txt": "table 254", "nftables.txt": "chain ", "sysctls.txt": "net/ipv4/ip_forward = 1", "versions.txt": "kernel ",
		"cni/05-weaveguard.conflist": "weaveguard-portmap", "run/cni.json": n.CIDRs[0].String(), "agent.log": "next=line",
	} {
		if !strings.Contains(has[name], want) {
			t.Errorf("%s of the report has no %q:\n%s", name, want, has[name])
		}
	}
}

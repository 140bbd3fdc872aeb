package agents_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// block is a piece of code of a page.
type block struct{ language, text string }

// blocksOf reads the code of a section of a page in docs.
func blocksOf(t *testing.T, page, section string) []block {
	t.Helper()
	root, err := lab.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(root, "docs", page))
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(raw), "\n## "+section+"\n")
	text, _, _ = strings.Cut(text, "\n## ")
	var blocks []block
	for i, part := range strings.Split(text, "```") {
		if i%2 == 1 {
			language, code, _ := strings.Cut(part, "\n")
			blocks = append(blocks, block{language, code})
		}
	}
	return blocks
}

// delegateOf is the plugin's configuration of the first NetworkAttachmentDefinition of a manifest, and the pod's annotation that
// asks for it.
func delegateOf(t *testing.T, manifest string) (config, asked string) {
	t.Helper()
	for document := range strings.SplitSeq(manifest, "\n---\n") {
		var object struct {
			Kind     string
			Metadata struct {
				Name        string
				Annotations map[string]string
			}
			Spec struct{ Config string }
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		switch object.Kind {
		case "NetworkAttachmentDefinition":
			config = object.Spec.Config
		case "Pod":
			asked = object.Metadata.Annotations["k8s.v1.cni.cncf.io/networks"]
		}
	}
	return config, asked
}

// The example of docs/networks.md, as it is written there.
func TestNetworksExample(t *testing.T) {
	blocks := blocksOf(t, "networks.md", "An example")
	var languages []string
	for _, b := range blocks {
		languages = append(languages, b.language)
	}
	if got := strings.Join(languages, " "); got != "sh sh yaml sh" {
		t.Fatalf("the example has the blocks %q: two files, a manifest, and what to look at", got)
	}
	config, asked := delegateOf(t, blocks[2].text)
	if asked != "blue" || !strings.Contains(config, `"blue"`) {
		t.Fatalf("the pod asks for %q, and the network is %s", asked, config)
	}
	m := agents.Up(t, 2)
	var pods []*member
	for i, n := range m.Nodes {
		n.MustRun(t, "sh", "-e", "-c", blocks[i].text)
		p := &member{n.NewPod(t, "shop"), n, map[string][]netip.Addr{}}
		for ifName, config := range map[string]string{"eth0": "", "net1": config} {
			lab.Eventually(t, 30*time.Second, "the pod on "+n.Name+" has "+ifName, func() error {
				addresses, err := p.Delegate(t.Context(), "ADD", ifName, config)
				p.addresses[map[string]string{"eth0": view.DefaultNetwork, "net1": "blue"}[ifName]] = addresses
				return err
			})
		}
		pods = append(pods, p)
	}
	pods[0].reaches(t, "blue", pods[1].addresses["blue"]...)
	pods[1].reaches(t, "blue", pods[0].addresses["blue"]...)
	pods[0].reaches(t, view.DefaultNetwork, pods[1].addresses[view.DefaultNetwork]...)
	cli := filepath.Dir(lab.Build(t, "./cmd/weaveguard"))
	for i, n := range m.Nodes {
		shown := n.MustRun(t, "sh", "-e", "-c", "weaveguard() { "+cli+"/weaveguard \"$@\"; }\n"+blocks[3].text)
		for _, want := range []string{
			"network blue", m.Nodes[1-i].Name + " has the networks blue", "inet " + []string{"10.50.1.1/24", "10.50.2.1/24"}[i], "unreachable 10.50.0.0/16",
			[]string{"10.50.2.2 dev weave-wg", "10.50.1.2 dev weave-wg"}[i], []string{"10.50.1.2 dev weave-blue", "10.50.2.2 dev weave-blue"}[i],
		} {
			if !strings.Contains(shown, want) {
				t.Errorf("on %s there is no %q in\n%s", n.Name, want, shown)
			}
		}
	}
}

package main

import (
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

const goodIdentity = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="

// An annotation that isn't an identity pins nobody, is no absent one either, and is named with its Node.
func TestUnreadableIdentity(t *testing.T) {
	for _, text := range []string{
		"not base64", "BwcH", goodIdentity + goodIdentity, strings.TrimRight(goodIdentity, "="), goodIdentity + "\n",
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	} {
		node, problems := clusterNode(kube.Node{Name: "n2", Identity: text})
		if !node.Unreadable || !node.Identity.IsZero() {
			t.Errorf("%q is read as %+v", text, node)
		}
		if len(problems) != 1 || problems[0].Subject != "node n2" || !strings.Contains(problems[0].Message, "weaveguard.io/identity") ||
			problems[0].Remedy == "" {
			t.Errorf("%q: problems are %v", text, problems)
		}
	}
	if node, problems := clusterNode(kube.Node{Name: "n2", Identity: goodIdentity}); node.Unreadable || node.Identity.IsZero() || len(problems) != 0 {
		t.Errorf("a good one: %+v, %v", node, problems)
	}
	if node, problems := clusterNode(kube.Node{Name: "n2"}); node.Unreadable || len(problems) != 0 {
		t.Errorf("none: %+v, %v", node, problems)
	}
}

// An annotation that isn't a WireGuard key is none: its agent writes it anew, and nobody is to do anything about it.
func TestPublicKeyAnnotation(t *testing.T) {
	for text, want := range map[string]bool{
		"": false, "not base64": false, "BwcH": false, goodIdentity + goodIdentity: false, goodIdentity + "\n": false, goodIdentity: true,
	} {
		node, problems := clusterNode(kube.Node{Name: "n2", PublicKey: text})
		if read := !node.PublicKey.IsZero(); read != want || read && node.PublicKey.String() != text || len(problems) != 0 {
			t.Errorf("%q is read as %v, with problems %v", text, node.PublicKey, problems)
		}
	}
}

// FuzzAnnotations reads any text as the annotations of a Node: never a panic, and what isn't usable is said.
func FuzzAnnotations(f *testing.F) {
	f.Add(goodIdentity, "203.0.113.9")
	f.Add("x", "::ffff:203.0.113.9")
	f.Add(strings.Repeat("A", 1<<12), "fe80::1%eth0")
	f.Add("\n", "127.0.0.1:80")
	f.Fuzz(func(t *testing.T, identity, endpoint string) {
		node, problems := clusterNode(kube.Node{Name: "n", Identity: identity, Endpoint: endpoint, PublicKey: identity})
		said := 0
		if identity != "" && node.Identity.IsZero() {
			said++
		}
		if endpoint != "" && !node.Endpoint.IsValid() {
			said++
		}
		if len(problems) != said || node.Unreadable != (identity != "" && node.Identity == keys.PublicIdentity{}) {
			t.Errorf("%+v, %v", node, problems)
		}
		if e := node.Endpoint; e.IsValid() && (!e.IsGlobalUnicast() || e.Is4In6() || e.Zone() != "") {
			t.Errorf("the endpoint is %s", e)
		}
	})
}

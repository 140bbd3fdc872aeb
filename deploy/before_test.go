package deploy_test

import (
	"bytes"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

// before is the manifest for clusters that don't know ValidatingAdmissionPolicy.
const before = "weaveguard-before-1.30.yaml"

//go:generate go test -run TestManifestBefore130 -update

var update = flag.Bool("update", false, "write "+before+" anew")

const beforeHeader = `# For Kubernetes before 1.30 only; from then on apply weaveguard.yaml, which protects more. This is that file without its
# ValidatingAdmissionPolicies: nothing keeps a node that was taken over from speaking for another one, and ` + "`weaveguard\n# status`" + ` warns of it. Made by ` + "`go generate ./deploy`" + `: don't edit it.
#
`

// withoutPolicies leaves the six objects out that older clusters don't know.
func withoutPolicies(t *testing.T, manifest string) string {
	t.Helper()
	var kept []string
	dropped := 0
	for _, document := range strings.Split(manifest, "\n---\n") {
		if strings.Contains(document, "\nkind: ValidatingAdmissionPolicy") {
			dropped++
			continue
		}
		kept = append(kept, document)
	}
	if dropped != 6 {
		t.Fatalf("the manifest has %d policies and bindings, want 6", dropped)
	}
	return beforeHeader + strings.Join(kept, "\n---\n")
}

func TestManifestBefore130(t *testing.T) {
	manifest, err := os.ReadFile("weaveguard.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := withoutPolicies(t, string(manifest))
	if *update {
		if err := os.WriteFile(before, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(before)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("run `go generate ./deploy` (-want +got):\n%s", diff)
	}
	if bytes.Contains(got, []byte("admissionregistration")) {
		t.Error("older clusters don't know admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy")
	}
}

// A policy without a binding that denies does nothing, and one that fails open isn't one.
func TestPoliciesDeny(t *testing.T) {
	objects := readManifest(t)
	for _, name := range []string{kube.NodePolicy, kube.KeyringPolicy, kube.LeasePolicy} {
		policy := get[*admissionv1.ValidatingAdmissionPolicy](t, objects, "ValidatingAdmissionPolicy /"+name)
		binding := get[*admissionv1.ValidatingAdmissionPolicyBinding](t, objects, "ValidatingAdmissionPolicyBinding /"+name)
		if p := policy.Spec.FailurePolicy; p == nil || *p != admissionv1.Fail {
			t.Errorf("%s: failurePolicy %v", name, p)
		}
		if len(policy.Spec.Validations) == 0 || binding.Spec.PolicyName != name || binding.Spec.MatchResources != nil ||
			len(binding.Spec.ValidationActions) != 1 || binding.Spec.ValidationActions[0] != admissionv1.Deny {
			t.Errorf("%s: %+v", name, binding.Spec)
		}
	}
}

package product_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/keys"
)

// testKeyring changes the gossip key with kubectl's rights, applies the manifest again, and takes the key away under the
// running agents.
func (w *world) testKeyring(t *testing.T) {
	keyring := w.keyringCommand(t)
	list := func() (all []string) {
		var listed []struct{ Fingerprint string }
		if err := json.Unmarshal([]byte(keyring("list", "-o", "json")), &listed); err != nil {
			t.Fatal(err)
		}
		for _, key := range listed {
			all = append(all, key.Fingerprint)
		}
		return all
	}
	before := list()
	if len(before) != 1 {
		t.Fatalf("the gossip keys are %v, want one", before)
	}
	old := before[0]
	went := map[string]int{}
	for _, node := range w.nodes {
		went[node] = w.timesWent(t, node)
	}
	keyring("add")
	young := list()[1]
	w.learnSecrets(t, w.nodes)
	w.awaitGossipKeys(t, old, young)
	w.applyKeepsKeyring(t)
	keyring("use", young)
	w.awaitGossipKeys(t, young, old)

	// Whatever becomes of the Secret while agents run, they keep what they have, and nobody fills an empty one.
	for _, fault := range []struct {
		says string
		make func()
	}{
		{"was replaced", func() {
			strange, err := keys.NewKeyring()
			if err != nil {
				t.Fatal(err)
			}
			data := fmt.Sprintf(`{"data":{"keyring":%q}}`, base64.StdEncoding.EncodeToString(strange.Text()))
			w.kubectl(t, "patch", "secret", "weaveguard-gossip", "-n", system, "-p", data)
		}},
		{"doesn't exist", func() { w.kubectl(t, "delete", "secret", "weaveguard-gossip", "-n", system) }},
		{"is empty", func() {
			if _, err := w.KubectlApply(t.Context(), w.manifest); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		fault.make()
		for _, node := range w.nodes {
			w.awaitProblem(t, node, "gossip keyring", "kube-system/weaveguard-gossip "+fault.says, young)
		}
		w.awaitGossipKeys(t, young, old)
	}
	for _, node := range w.nodes {
		w.awaitProblem(t, node, "gossip keyring", "rollout restart")
	}
	secret, err := w.Client().CoreV1().Secrets(system).Get(t.Context(), "weaveguard-gossip", metav1.GetOptions{})
	if err != nil || len(secret.Data) != 0 {
		t.Errorf("the Secret has %d values (%v), want it empty as it was made", len(secret.Data), err)
	}
	for node, before := range went {
		if now := w.timesWent(t, node); now != before {
			t.Errorf("%s saw others go while the key changed", node)
		}
	}
	// One that starts puts back what its node had, and all is well again.
	pod, err := w.agentPod(t.Context(), w.nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	w.keepLogs(t, w.nodes[0])
	w.kubectl(t, "delete", "pod", pod.Name, "-n", system)
	w.eventually(t, "the Secret has its keyring again", func(context.Context) error {
		if now := list(); len(now) != 2 || now[0] != young || now[1] != old {
			return fmt.Errorf("it has %v", now)
		}
		return nil
	})
	for _, node := range w.nodes {
		w.eventually(t, node+" is content", func(ctx context.Context) error {
			status, err := w.status(ctx, node)
			for _, p := range status.Problems {
				if p.Subject == "gossip keyring" {
					err = fmt.Errorf("it says %s", p)
				}
			}
			return err
		})
	}
	keyring("remove", old) // agents follow within a minute, as the lane lab shows
	if now := list(); len(now) != 1 || now[0] != young {
		t.Errorf("the gossip keys are %v, want %s alone", now, young)
	}
	w.awaitMesh(t)
}

// keyringCommand runs `weaveguard keyring` as an operator does, whose kubectl has an administrator's rights.
func (w *world) keyringCommand(t *testing.T) func(args ...string) string {
	t.Helper()
	program, kubeconfig, path := buildProgram(t, "./cmd/weaveguard"), w.Kubeconfig(), root(t).Programs()
	return func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, append([]string{"keyring", "--kubeconfig", kubeconfig}, args...)...)
		cmd.Env = append(os.Environ(), "PATH="+path+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("weaveguard keyring %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}

// timesWent is how often a node's agent saw others go.
func (w *world) timesWent(t *testing.T, node string) int {
	t.Helper()
	log, err := w.log(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(log, "nodes went")
}

// awaitGossipKeys waits until all agents have these keys, the first of which encrypts.
func (w *world) awaitGossipKeys(t *testing.T, want ...string) {
	t.Helper()
	for _, node := range w.nodes {
		w.eventually(t, fmt.Sprintf("%s has the gossip keys %v", node, want), func(ctx context.Context) error {
			status, err := w.status(ctx, node)
			if err == nil && strings.Join(status.Gossip.Keys, " ") != strings.Join(want, " ") {
				err = fmt.Errorf("it has %v", status.Gossip.Keys)
			}
			return err
		})
	}
}

// applyKeepsKeyring applies the manifest when an operator has changed the keyring: kubectl apply removes what it thinks
// that it made itself.
func (w *world) applyKeepsKeyring(t *testing.T) {
	t.Helper()
	before, err := w.Client().CoreV1().Secrets(system).Get(t.Context(), "weaveguard-gossip", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range before.Annotations {
		if strings.Contains(value, `"data"`) {
			t.Errorf("the keyring is in the annotation %s", name)
		}
	}
	if _, err := w.KubectlApply(t.Context(), w.manifest); err != nil {
		t.Fatal(err)
	}
	after, err := w.Client().CoreV1().Secrets(system).Get(t.Context(), "weaveguard-gossip", metav1.GetOptions{})
	if err != nil || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("applying the manifest again changed the Secret (%v): it has %d values", err, len(after.Data))
	}
}

package product_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/test/internal/scrape"
)

// noSecretSaid is the name of the last subtest of each test.
const noSecretSaid = "no secret was said anywhere"

// testSecrets looks for the secrets that the cluster has and had in all that Weaveguard has said so far: logs, Events, Nodes,
// status, metrics.
func (w *world) testSecrets(t *testing.T) {
	nodes, err := w.Nodes(t.Context()) // also those that joined
	if err != nil {
		t.Fatal(err)
	}
	w.learnSecrets(t, nodes)
	said := map[string]string{
		"Events": w.kubectl(t, "get", "events", "-A", "-o", "yaml"),
		"Nodes":  w.kubectl(t, "get", "nodes", "-o", "yaml"),
		"Pods":   w.kubectl(t, "get", "pods", "-n", system, "-o", "yaml"),
	}
	for _, node := range nodes {
		status, err := w.cli(t.Context(), node, "status", "-o", "json")
		if err != nil {
			t.Fatal(err)
		}
		said["status of "+node] = status
		w.keepLogs(t, node)
		said["logs of "+node] = w.logs[node]
		said["metrics of "+node] = w.on(t, node, scrape.Command(scrape.Local(contract.MetricsPort), "/metrics")...)
	}
	for name, text := range said {
		if !strings.Contains(text, "weave") {
			t.Errorf("%s: nothing of Weaveguard is in there, in %d bytes", name, len(text))
		}
		w.known.Check(t, name, []byte(text))
	}
	secret := w.kubectl(t, "get", "secret", kube.SecretName, "-n", system, "-o", `go-template={{.data.keyring | base64decode}}`)
	if len(w.known.Scan("the Secret", []byte(secret))) == 0 {
		t.Error("the gossip key isn't found where it is: this test can't tell")
	}
}

// keepSaid remembers what a node's agents have said, and may not say, before one of them goes with its token and its log.
func (w *world) keepSaid(t *testing.T, node string) {
	t.Helper()
	w.learnSecrets(t, []string{node})
	w.keepLogs(t, node)
}

// keepLogs remembers the logs of all agents of a node that the node still has.
func (w *world) keepLogs(t *testing.T, node string) {
	t.Helper()
	if w.logs == nil {
		w.logs = map[string]string{}
	}
	w.logs[node] += w.on(t, node, "sh", "-c", "cat /var/log/pods/kube-system_weaveguard*/*/*.log")
}

// learnSecrets remembers the gossip keys, and of each node its keys and its agent's token, as they are now: a rotation
// takes some away.
func (w *world) learnSecrets(t *testing.T, nodes []string) {
	t.Helper()
	add := func(name string, secret []byte) {
		t.Helper()
		if len(w.known.Scan(name, secret)) > 0 {
			return // it is known
		}
		if err := w.known.Add(name, secret); err != nil {
			t.Fatal(err)
		}
	}
	decoded := func(name, text string) {
		t.Helper()
		secret, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Fatalf("%s isn't base64", name)
		}
		add(name, secret)
	}
	secret, err := w.Client().CoreV1().Secrets(system).Get(t.Context(), kube.SecretName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range strings.Fields(string(secret.Data[kube.SecretKey])) {
		decoded("gossip key", key)
	}
	for _, node := range nodes {
		var store struct {
			Identity    string
			Generations []struct{ PrivateKey string }
		}
		if err := json.Unmarshal([]byte(w.on(t, node, "cat", contract.StateDir+"/keys.json")), &store); err != nil {
			t.Fatalf("the key store of %s can't be read", node)
		}
		decoded("identity of "+node, store.Identity)
		for _, g := range store.Generations {
			decoded("private key of "+node, g.PrivateKey)
		}
		token := w.agentToken(t, node)
		// The signature alone makes it a token; the rest says whose it is.
		signature, err := base64.RawURLEncoding.DecodeString(token[strings.LastIndex(token, ".")+1:])
		if err != nil {
			t.Fatalf("the token of %s isn't a JWT", node)
		}
		add("token of "+node, signature)
	}
}

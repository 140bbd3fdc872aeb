package agents

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/internal/scrape"
	"github.com/weaveguard/weaveguard/test/internal/secrets"
	"github.com/weaveguard/weaveguard/test/lab"
)

// secretsTimeout is how long a node has to say its status when the test is over.
const secretsTimeout = 5 * time.Second

// watch is what a mesh knows of its secrets, and has looked for at the end of each test.
type watch struct {
	mu      sync.Mutex
	checker secrets.Checker
	known   map[string]bool
	said    map[string]string // by the output's name; looked into at the end
}

// keep remembers what a program said that has ended.
func (w *watch) keep(output, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.said == nil {
		w.said = map[string]string{}
	}
	w.said[output] += text + "\n"
}

// add remembers a secret in base64. What isn't one (a test may spoil the files) is none.
func (w *watch) add(name, text string) {
	secret, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[text] || w.checker.Add(name, secret) != nil {
		return
	}
	if w.known == nil {
		w.known = map[string]bool{}
	}
	w.known[text] = true
}

func (w *watch) kept() map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.said)
}

// check fails the test for each secret that the output has.
func (w *watch) check(t secrets.Reporter, output, text string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.checker.Check(t, output, []byte(text))
}

// LearnKeys remembers what a node's key store holds now; a rotation erases old keys from it.
func (m *Mesh) LearnKeys(node string, raw []byte) error {
	var store KeyFile
	if err := json.Unmarshal(raw, &store); err != nil {
		return fmt.Errorf("the key store of %s: %w", node, err)
	}
	m.secrets.add("identity of "+node, store.Identity)
	for _, g := range store.Generations {
		m.secrets.add(fmt.Sprintf("private key %d of %s", g.Number, node), g.PrivateKey)
	}
	return nil
}

// learnSecrets remembers the secrets that the mesh has now.
func (m *Mesh) learnSecrets() {
	if raw, err := os.ReadFile(m.keyFile); err == nil {
		for _, key := range strings.Fields(string(raw)) {
			m.secrets.add("gossip key", key)
		}
	}
	for _, n := range m.Nodes {
		if raw, err := os.ReadFile(n.StateFile("keys.json")); err == nil {
			_ = m.LearnKeys(n.Name, raw) // a test may spoil it
		}
	}
}

// CheckSecrets fails the test for each secret of the mesh that a process' log, an agent's status or metrics, or an answer
// of the plugin or the CLI has. The end of each test does so.
func (m *Mesh) CheckSecrets(t secrets.Reporter, cli string) {
	t.Helper()
	m.learnSecrets()
	for name, log := range m.Lab.Logs() {
		m.secrets.check(t, "log of "+name, log)
	}
	for output, text := range m.secrets.kept() {
		m.secrets.check(t, output, text)
	}
	for _, n := range m.Nodes {
		if n.Agent == nil {
			continue
		}
		select {
		case <-n.Agent.Done():
			continue
		default:
		}
		for output, command := range map[string][]string{
			"status":  {cli, "status", "-o", "json"},
			"metrics": scrape.Command(scrape.Local(contract.MetricsPort), "/metrics"),
		} {
			ctx, cancel := context.WithTimeout(context.Background(), secretsTimeout)
			out, err := n.Run(ctx, command[0], command[1:]...)
			cancel()
			m.secrets.check(t, output+" of "+n.Name, fmt.Sprint(out, err))
		}
	}
}

// CheckText fails the test for each secret of the mesh that a text has, such as what a command printed.
func (m *Mesh) CheckText(t secrets.Reporter, name, text string) {
	t.Helper()
	m.secrets.check(t, name, text)
}

// watchSecrets makes the test's end look for secrets, while the hosts still run.
func (m *Mesh) watchSecrets(t testing.TB) {
	t.Helper()
	cli := lab.Build(t, "./cmd/weaveguard")
	m.learnSecrets()
	t.Cleanup(func() { m.CheckSecrets(t, cli) })
}

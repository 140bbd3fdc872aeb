package agents_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// keyringDeadline is how long an agent may take to follow a keyring: its hold, some looks at the file, and a busy machine.
const keyringDeadline = time.Minute

// ring is what an agent says of its gossip keys: the one that encrypts first.
func ring(ctx context.Context, n *agents.Node) ([]string, error) {
	s, err := n.Status(ctx)
	return s.Gossip.Keys, err
}

func awaitRing(t *testing.T, n *agents.Node, want ...string) {
	t.Helper()
	lab.Eventually(t, keyringDeadline, fmt.Sprintf("%s has the gossip keys %v", n.Name, want), func() error {
		got, err := ring(t.Context(), n)
		if err == nil && !slices.Equal(got, want) {
			err = fmt.Errorf("it has %v", got)
		}
		return err
	})
}

// ownKeyring gives each node a copy of the mesh's keyring in a file of its own, as hosts have it.
func ownKeyring(t *testing.T, m *agents.Mesh, first string) (files []string) {
	t.Helper()
	text, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range m.Nodes {
		path := filepath.Join(m.Lab.Dir(), n.Name+".key")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		n.Args = append(n.Args, "--gossip-key-file", path)
		files = append(files, path)
	}
	return files
}

// fingerprints lists a keyring's file with the CLI.
func fingerprints(t *testing.T, n *agents.Node, file string) []string {
	t.Helper()
	var listed []struct{ Fingerprint string }
	if err := json.Unmarshal([]byte(n.CLI(t, "keyring", "list", "--file", file, "-o", "json")), &listed); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, key := range listed {
		all = append(all, key.Fingerprint)
	}
	return all
}

// watchMembers looks without pause whether each agent sees all alive, until the returned function ends it.
func watchMembers(t *testing.T, m *agents.Mesh) (stop func() (looks int, lost []string)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var mu sync.Mutex
	looks, lost := 0, []string(nil)
	nodes := slices.Clone(m.Nodes)
	for _, n := range nodes {
		running.Go(func() {
			for ctx.Err() == nil {
				s, err := n.Status(ctx)
				mu.Lock()
				if looks++; err == nil && s.Gossip.Members != len(nodes) && len(lost) < 10 {
					lost = append(lost, fmt.Sprintf("%s sees %d alive, with the keys %v", n.Name, s.Gossip.Members, s.Gossip.Keys))
				}
				mu.Unlock()
				select {
				case <-ctx.Done():
				case <-time.After(200 * time.Millisecond):
				}
			}
		})
	}
	return func() (int, []string) {
		cancel()
		running.Wait()
		return looks, lost
	}
}

// spreads shows that news of one node gets to all others: it takes a new WireGuard key, which all peers have to follow.
func spreads(t *testing.T, m *agents.Mesh, n *agents.Node) {
	t.Helper()
	answer := n.Rotate(t)
	n.AwaitKey(t, answer.Generation, 2*time.Minute)
	m.WaitUp(t, time.Minute)
}

// The gossip key of five nodes is changed while they run, one after the other: nobody is ever seen as lost by anybody,
// news gets around in each state in between, and who has the old key alone is shut out in the end.
func TestKeyringRotation(t *testing.T) {
	m := agents.New(t, 5)
	original := filepath.Join(m.Lab.Dir(), "gossip.key")
	files := ownKeyring(t, m, original)
	for _, n := range m.Nodes {
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	before := fingerprints(t, m.Nodes[0], files[0])
	if len(before) != 1 {
		t.Fatalf("the keyring is %v", before)
	}
	old := before[0]
	for _, n := range m.Nodes {
		awaitRing(t, n, old)
		lab.Eventually(t, time.Minute, n.Name+" sees all alive", func() error {
			s, err := n.Status(t.Context())
			if err == nil && s.Gossip.Members != len(m.Nodes) {
				err = fmt.Errorf("it sees %d", s.Gossip.Members)
			}
			return err
		})
	}
	f := flow(t, m.Nodes[0].AddPod(t, "pod"), m.Nodes[4].AddPod(t, "pod"), "keyring")
	stop := watchMembers(t, m)

	added := filepath.Join(m.Lab.Dir(), "added.key")
	agents.WriteKey(t, added)
	young := fingerprints(t, m.Nodes[0], added)[0]
	key, err := os.ReadFile(added)
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range m.Nodes {
		out, err := n.RunCommand(t.Context(), lab.Command{
			Path: lab.Build(t, "./cmd/weaveguard"), Args: []string{"keyring", "add", "--stdin", "--file", files[i]},
			Stdin: strings.NewReader(string(key)),
		})
		if err != nil {
			t.Fatalf("adding a key on %s: %v\n%s", n.Name, err, out)
		}
		awaitRing(t, n, old, young)
	}
	for i, n := range m.Nodes {
		n.CLI(t, "keyring", "use", young, "--file", files[i])
		awaitRing(t, n, young, old)
		if i == 1 { // two speak with the new key, three with the old one
			spreads(t, m, m.Nodes[0])
			spreads(t, m, m.Nodes[4])
		}
	}
	for i, n := range m.Nodes {
		n.CLI(t, "keyring", "remove", old, "--file", files[i])
	}
	for _, n := range m.Nodes {
		awaitRing(t, n, young)
	}
	spreads(t, m, m.Nodes[2])

	looks, lost := stop()
	if len(lost) > 0 {
		t.Errorf("members were seen as lost: %v", lost)
	}
	if looks < 50 {
		t.Errorf("only %d looks at who is alive", looks)
	}
	for _, n := range m.Nodes {
		log := n.Agent.Log()
		if strings.Contains(log, "nodes went") {
			t.Errorf("%s saw others go:\n%s", n.Name, log)
		}
		if strings.Contains(log, strings.TrimSpace(string(key))) {
			t.Errorf("the log of %s has the gossip key", n.Name)
		}
		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if refused := s.Counters.Refused["gossip-undecryptable"]; refused != 0 {
			t.Errorf("%s couldn't decrypt %d packets of others", n.Name, refused)
		}
	}
	if report := f.Stop(t); report.Lost() != 0 {
		t.Errorf("lost on the way: %s", report)
	}
	t.Logf("%d looks at who is alive", looks)

	// Who has the old key alone isn't let in.
	stranger, err := m.Lab.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	n := m.Adopt(stranger)
	n.Args = []string{"--gossip-key-file", original}
	n.Start(t)
	says(t, m.Nodes[0], n.Addr4.String(), "another gossip key")
	for _, other := range m.Nodes[:5] {
		if s, err := other.Status(t.Context()); err != nil || s.Gossip.Members != 5 {
			t.Errorf("%s sees %d alive (%v), want the five with the new key", other.Name, s.Gossip.Members, err)
		}
	}
	if s, err := n.Status(t.Context()); err != nil || len(s.Peers) != 0 {
		t.Errorf("who has the old key alone has peers: %v, %v", s.Peers, err)
	}
}

// A keyring's file that is emptied, deleted, or replaced while the agent runs changes nothing but what status says; and
// that ends when the file is good again.
func TestKeyringFileAtFault(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 2)
	files := ownKeyring(t, m, filepath.Join(m.Lab.Dir(), "gossip.key"))
	for _, n := range m.Nodes {
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	n, file := m.Nodes[0], files[0]
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	has := fingerprints(t, n, file)[0]
	stop := watchMembers(t, m)
	for _, fault := range []struct {
		say  string
		make func() error
	}{
		{"no gossip key", func() error { return os.WriteFile(file, nil, 0o600) }},
		{"doesn't exist", func() error { return os.Remove(file) }},
		{"line 1", func() error { return os.WriteFile(file, []byte("what somebody wrote by mistake\n"), 0o600) }},
		{"was replaced", func() error {
			agents.WriteKey(t, file)
			return nil
		}},
	} {
		if err := fault.make(); err != nil {
			t.Fatal(err)
		}
		says(t, n, "gossip keyring", fault.say, "keeps the keyring that it has ("+has+")")
		awaitRing(t, n, has)
	}
	if err := os.WriteFile(file, good, 0o600); err != nil {
		t.Fatal(err)
	}
	lab.Eventually(t, 20*time.Second, "the problem is over", func() error {
		s, err := n.Status(t.Context())
		for _, p := range s.Problems {
			if p.Subject == "gossip keyring" {
				err = fmt.Errorf("it says %s", p)
			}
		}
		return err
	})
	if _, lost := stop(); len(lost) > 0 {
		t.Errorf("members were seen as lost: %v", lost)
	}
	log := n.Agent.Log()
	for _, said := range []string{"no gossip key", "doesn't exist; ", "line 1", "was replaced"} {
		lines := 0
		for line := range strings.Lines(log) {
			if strings.Contains(line, "level=ERROR") && strings.Contains(line, said) {
				lines++
			}
		}
		if lines != 1 {
			t.Errorf("the log says %q %d times, want once:\n%s", said, lines, log)
		}
	}
	awaitRing(t, n, has)
}

// An operator in haste replaces the key on one host after the other in one step, and takes the old one out as soon as
// the agents have seen that. They hold each change back for as long as others may not know of it, so nobody is lost.
func TestKeyringInHaste(t *testing.T) {
	t.Parallel()
	m := agents.New(t, 3)
	original := filepath.Join(m.Lab.Dir(), "gossip.key")
	files := ownKeyring(t, m, original)
	for _, n := range m.Nodes {
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	before, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	added := filepath.Join(m.Lab.Dir(), "added.key")
	agents.WriteKey(t, added)
	after, err := os.ReadFile(added)
	if err != nil {
		t.Fatal(err)
	}
	old, young := fingerprints(t, m.Nodes[0], original)[0], fingerprints(t, m.Nodes[0], added)[0]
	write := func(file string, keys ...[]byte) {
		t.Helper()
		if err := os.WriteFile(file, slices.Concat(keys...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stop := watchMembers(t, m)
	for i, n := range m.Nodes {
		write(files[i], after, before)
		awaitRing(t, n, old, young)
	}
	for _, file := range files {
		write(file, after)
	}
	for _, n := range m.Nodes {
		awaitRing(t, n, young)
	}
	if _, lost := stop(); len(lost) > 0 {
		t.Errorf("members were seen as lost: %v", lost)
	}
	for _, n := range m.Nodes {
		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if refused := s.Counters.Refused["gossip-undecryptable"]; refused != 0 || strings.Contains(n.Agent.Log(), "nodes went") {
			t.Errorf("%s couldn't decrypt %d packets of others, or saw them go", n.Name, refused)
		}
	}
}

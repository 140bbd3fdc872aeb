package product_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations on a Node.
const (
	rotateKeys    = "weaveguard.io/rotate-keys"
	keyGeneration = "weaveguard.io/key-generation"
	publicKey     = "weaveguard.io/public-key"
	keyRotatedAt  = "weaveguard.io/key-rotated-at"
	keyRotation   = "weaveguard.io/rotation"
)

// nodeKey is what a Node says of its WireGuard key.
type nodeKey struct {
	generation int
	publicKey  string
	rotatedAt  time.Time
	rotation   string
	requested  bool // a request for a rotation waits
}

func (w *world) nodeKey(ctx context.Context, node string) (nodeKey, error) {
	object, err := w.Client().CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return nodeKey{}, err
	}
	said := object.Annotations
	k := nodeKey{publicKey: said[publicKey], rotation: said[keyRotation]}
	_, k.requested = said[rotateKeys]
	var err1, err2 error
	k.generation, err1 = strconv.Atoi(said[keyGeneration])
	k.rotatedAt, err2 = time.Parse(time.RFC3339, said[keyRotatedAt])
	if err := errors.Join(err1, err2); err != nil {
		return k, fmt.Errorf("%s has the annotations %v: %w", node, said, err)
	}
	return k, nil
}

func (w *world) mustNodeKey(t *testing.T, node string) nodeKey {
	t.Helper()
	k, err := w.nodeKey(t.Context(), node)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// annotate asks for rotations as users do: of one node, or with "--all" of all of them.
func (w *world) annotate(t *testing.T, nodes, value string) {
	t.Helper()
	w.kubectl(t, "annotate", "node", nodes, rotateKeys+"="+value)
}

// awaitRotated waits until a Node says that it has the next key and no other, and that nothing more is asked of it.
func (w *world) awaitRotated(t *testing.T, node string, before nodeKey) nodeKey {
	t.Helper()
	var now nodeKey
	w.eventually(t, fmt.Sprintf("the Node %s says that it has key %d", node, before.generation+1), func(ctx context.Context) (err error) {
		now, err = w.nodeKey(ctx, node)
		if err == nil && (now.generation != before.generation+1 || now.rotation != "idle" || now.requested) {
			err = fmt.Errorf("it says %+v", now)
		}
		return err
	})
	if now.publicKey == before.publicKey || !now.rotatedAt.After(before.rotatedAt) {
		t.Errorf("the Node %s said %+v of its key, and now says %+v", node, before, now)
	}
	return now
}

// awaitKey waits until a node has the key of a generation, and no other. Its agent knows that before the Node says so:
// what agents write there is limited.
func (w *world) awaitKey(t *testing.T, node string, generation int) {
	t.Helper()
	w.eventually(t, fmt.Sprintf("%s has key %d alone", node, generation), func(ctx context.Context) error {
		s, err := w.status(ctx, node)
		if err == nil && (len(s.Generations) != 1 || int(s.Generations[0].Number) != generation || s.Rotation.Phase != "idle") {
			err = fmt.Errorf("it has the keys %v, and its rotation is %+v", s.Generations, s.Rotation)
		}
		return err
	})
}

// awaitWG waits until `wg show` on every node says what the Nodes say: each has the one key in all of its tunnel
// devices, and every other one by its key as a peer, once.
func (w *world) awaitWG(t *testing.T) {
	t.Helper()
	w.eventually(t, "wg shows the keys that the Nodes say", func(ctx context.Context) error {
		keys := map[string]string{}
		for _, node := range w.nodes {
			k, err := w.nodeKey(ctx, node)
			if err != nil {
				return err
			}
			keys[node] = k.publicKey
		}
		for _, node := range w.nodes {
			var others []string
			for _, other := range w.nodes {
				if other != node {
					others = append(others, keys[other])
				}
			}
			slices.Sort(others)
			d, err := w.wg(ctx, node)
			if err != nil {
				return err
			}
			if !slices.Equal(d.publicKeys(), []string{keys[node]}) || !slices.Equal(d.peerKeys(), others) {
				return fmt.Errorf("wg on %s shows the keys %v and the peers %v, want %s and %v", node, d.publicKeys(), d.peerKeys(), keys[node], others)
			}
		}
		return nil
	})
}

// describes waits until a line of `kubectl describe node` says all of the words.
func (w *world) describes(t *testing.T, node string, words ...string) {
	t.Helper()
	w.eventually(t, fmt.Sprintf("kubectl describe node %s says %q", node, words), func(ctx context.Context) error {
		text, err := w.Kubectl(ctx, "describe", "node", node)
		if err != nil {
			return err
		}
		for line := range strings.Lines(text) {
			if saysAll(line, words) {
				return nil
			}
		}
		_, events, _ := strings.Cut(text, "\nEvents:")
		return fmt.Errorf("the Events are%s", events)
	})
}

// nodeWatch collects what a Node says of its rotation.
type nodeWatch struct {
	node string

	mu    sync.Mutex
	words []string // each different from the one before
}

// watchNode begins with what the Node says now.
func (w *world) watchNode(t *testing.T, node string) *nodeWatch {
	t.Helper()
	events, err := w.Client().CoreV1().Nodes().Watch(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + node})
	if err != nil {
		t.Fatal(err)
	}
	n := &nodeWatch{node: node}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range events.ResultChan() {
			if object, ok := event.Object.(*corev1.Node); ok {
				n.add(object.Annotations[keyRotation])
			}
		}
	}()
	t.Cleanup(func() {
		events.Stop()
		<-ended
	})
	return n
}

func (n *nodeWatch) add(rotation string) {
	word, _, _ := strings.Cut(rotation, ":") // a reason may follow
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.words) == 0 || n.words[len(n.words)-1] != word {
		n.words = append(n.words, word)
	}
}

func (n *nodeWatch) seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.words)
}

// sawRotation waits until the end of a rotation was seen, and checks what was seen of it.
func (n *nodeWatch) sawRotation(t *testing.T, w *world) {
	t.Helper()
	w.eventually(t, "the rotation of "+n.node+" was watched", func(context.Context) error {
		if seen := n.seen(); len(seen) < 3 || seen[0] != "idle" || seen[len(seen)-1] != "idle" {
			return fmt.Errorf("%q was seen, want more words between two times idle", seen)
		}
		return nil
	})
	for _, word := range n.seen() {
		if !slices.Contains([]string{"idle", "preparing", "establishing", "switching", "draining"}, word) {
			t.Errorf("the rotation of %s is called %q", n.node, word)
		}
	}
	t.Logf("the Node %s said of its rotation: %s", n.node, strings.Join(n.seen(), ", "))
}

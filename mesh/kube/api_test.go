package kube_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/kubernetes/scheme"
	metadatafake "k8s.io/client-go/metadata/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

const agentNode = "n1"

var (
	nodesResource    = corev1.SchemeGroupVersion.WithResource("nodes")
	secretsResource  = corev1.SchemeGroupVersion.WithResource("secrets")
	eventsResource   = corev1.SchemeGroupVersion.WithResource("events")
	policiesResource = networkingv1.SchemeGroupVersion.WithResource("networkpolicies")
)

// api is a fake API server: client-go's fakes, and what those leave out and the agent depends on. It gives resource
// versions, refuses an Update of an old one, and refuses what the admission policies refuse.
type api struct {
	client   *fake.Clientset
	metadata *metadatafake.FakeMetadataClient
	version  atomic.Int64

	writing sync.Mutex // held from reading a Node to writing it

	mu      sync.Mutex
	patches []string         // that were accepted: subresource and body
	denied  []string         // attempts that the admission policy refuses
	down    error            // what every request gets; nil: it works
	probed  map[string]int   // dry runs by the policy that they look for
	probe   map[string]error // what those get
}

func newAPI(t *testing.T, objects ...runtime.Object) *api {
	t.Helper()
	a := &api{client: fake.NewClientset(), probed: map[string]int{}, probe: map[string]error{}}
	for _, policy := range policies {
		a.probe[policy] = policyRefusal(policy)
	}
	known := metadatafake.NewTestScheme()
	if err := metav1.AddMetaToScheme(known); err != nil {
		t.Fatal(err)
	}
	a.metadata = metadatafake.NewSimpleMetadataClient(known)
	for _, object := range objects {
		a.add(t, object)
	}
	a.client.PrependReactor("patch", "nodes", a.patchNode)
	a.client.PrependReactor("update", "secrets", a.updateSecret)
	for _, fake := range []*ktesting.Fake{&a.client.Fake, &a.metadata.Fake} {
		fake.PrependReactor("*", "*", func(ktesting.Action) (bool, runtime.Object, error) {
			err := a.isDown()
			return err != nil, nil, err
		})
	}
	return a
}

func (a *api) next() string { return strconv.FormatInt(a.version.Add(1), 10) }

func (a *api) isDown() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.down
}

// fail makes every request fail with err from now on; nil ends that.
func (a *api) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.down = err
}

func (a *api) add(t *testing.T, object runtime.Object) {
	t.Helper()
	var err error
	switch o := object.(type) {
	case *metav1.PartialObjectMetadata:
		o.ResourceVersion = a.next()
		err = a.metadata.Tracker().Create(policiesResource, o, o.Namespace)
	case metav1.Object:
		o.SetResourceVersion(a.next())
		err = a.client.Tracker().Add(object)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// changeNode changes a Node as somebody else than the agent does.
func (a *api) changeNode(t *testing.T, name string, change func(*corev1.Node)) {
	t.Helper()
	a.writing.Lock()
	defer a.writing.Unlock()
	node := a.node(t, name)
	change(node)
	node.ResourceVersion = a.next()
	if err := a.client.Tracker().Update(nodesResource, node, ""); err != nil {
		t.Fatal(err)
	}
}

func (a *api) node(t *testing.T, name string) *corev1.Node {
	t.Helper()
	object, err := a.client.Tracker().Get(nodesResource, "", name)
	if err != nil {
		t.Fatal(err)
	}
	return object.(*corev1.Node).DeepCopy()
}

func (a *api) patchNode(action ktesting.Action) (bool, runtime.Object, error) {
	patch := action.(ktesting.PatchAction)
	if impl, ok := action.(ktesting.PatchActionImpl); ok && len(impl.PatchOptions.DryRun) > 0 {
		return a.dryRunNode(impl)
	}
	a.writing.Lock()
	defer a.writing.Unlock()
	object, err := a.client.Tracker().Get(nodesResource, "", patch.GetName())
	if err != nil {
		return true, nil, err
	}
	before := object.(*corev1.Node)
	after, err := patched(before, patch)
	if err != nil {
		return true, nil, err
	}
	if why := admit(before, after, patch.GetSubresource()); why != "" {
		a.mu.Lock()
		a.denied = append(a.denied, why)
		a.mu.Unlock()
		return true, nil, apierrors.NewForbidden(nodesResource.GroupResource(), patch.GetName(), errors.New(why))
	}
	a.mu.Lock()
	a.patches = append(a.patches, patch.GetSubresource()+" "+string(patch.GetPatch()))
	a.mu.Unlock()
	after.ResourceVersion = a.next()
	return true, after, a.client.Tracker().Update(nodesResource, after, "")
}

// patched returns what the patch makes of the Node.
func patched(before *corev1.Node, patch ktesting.PatchAction) (*corev1.Node, error) {
	if patch.GetPatchType() == types.JSONPatchType {
		return jsonPatched(before, patch)
	}
	original, err := json.Marshal(before)
	if err != nil {
		return nil, err
	}
	// For what the agent patches, a merge patch and a strategic one do the same but for lists.
	if patch.GetPatchType() == types.MergePatchType && bytes.Contains(patch.GetPatch(), []byte("[")) {
		return nil, errors.New("a merge patch replaces a whole list")
	}
	merged, err := strategicpatch.StrategicMergePatch(original, patch.GetPatch(), corev1.Node{})
	if err != nil {
		return nil, err
	}
	after := &corev1.Node{}
	return after, json.Unmarshal(merged, after)
}

// jsonPatched has client-go's fake apply the patch, to a Node of its own, and says that it doesn't fit as an API server
// does.
func jsonPatched(before *corev1.Node, patch ktesting.PatchAction) (*corev1.Node, error) {
	scratch := ktesting.NewObjectTracker(scheme.Scheme, scheme.Codecs.UniversalDecoder())
	if err := scratch.Add(before); err != nil {
		return nil, err
	}
	_, after, err := ktesting.ObjectReaction(scratch)(patch)
	if err != nil {
		return nil, apierrors.NewGenericServerResponse(http.StatusUnprocessableEntity, "", schema.GroupResource{}, "", err.Error(), 0, false)
	}
	return after.(*corev1.Node), nil
}

// admit says why a change of a Node by the agent of agentNode is refused: it may change its own Node only, and there
// only Weaveguard's annotations, of users' ones only remove the request for a rotation, and the condition
// NetworkUnavailable through the subresource status.
func admit(before, after *corev1.Node, subresource string) string {
	if before.Name != agentNode {
		return "another node's Node"
	}
	if _, ok := after.Annotations["weaveguard.io/rotate-keys"]; !ok {
		before = before.DeepCopy()
		delete(before.Annotations, "weaveguard.io/rotate-keys")
	}
	strip := func(node *corev1.Node) string {
		node = node.DeepCopy()
		for key := range node.Annotations {
			if strings.HasPrefix(key, "weaveguard.io/") && key != "weaveguard.io/endpoint" &&
				key != "weaveguard.io/rotate-keys" && key != "weaveguard.io/persistent-keepalive" {
				delete(node.Annotations, key)
			}
		}
		if subresource == "status" {
			node.Status.Conditions = slices.DeleteFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
				return c.Type == corev1.NodeNetworkUnavailable
			})
		}
		raw, err := json.Marshal(node)
		return fmt.Sprint(string(raw), err)
	}
	if strip(before) != strip(after) {
		return "more than the agent's own: " + strip(after)
	}
	return ""
}

func (a *api) updateSecret(action ktesting.Action) (bool, runtime.Object, error) {
	if impl, ok := action.(ktesting.UpdateActionImpl); ok && len(impl.UpdateOptions.DryRun) > 0 {
		return a.dryRunSecret(impl)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	secret := action.(ktesting.UpdateAction).GetObject().(*corev1.Secret).DeepCopy()
	object, err := a.client.Tracker().Get(secretsResource, secret.Namespace, secret.Name)
	if err != nil {
		return true, nil, err
	}
	stored := object.(*corev1.Secret)
	if stored.ResourceVersion != secret.ResourceVersion {
		return true, nil, apierrors.NewConflict(secretsResource.GroupResource(), secret.Name, errors.New("changed"))
	}
	if len(stored.Data) != 0 {
		return true, nil, apierrors.NewForbidden(secretsResource.GroupResource(), secret.Name, errors.New("not empty"))
	}
	secret.ResourceVersion = a.next()
	return true, secret, a.client.Tracker().Update(secretsResource, secret, secret.Namespace)
}

// accepted returns the patches that were accepted since it was called last.
func (a *api) accepted() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	patches := a.patches
	a.patches = nil
	return patches
}

func (a *api) events(t *testing.T, namespace string) []corev1.Event {
	t.Helper()
	list, err := a.client.CoreV1().Events(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// agent is a Kube that runs in a synctest bubble.
type agent struct {
	*kube.Kube
	changes atomic.Int64
	log     *logBuffer
}

// start runs a Kube on a node until the test ends.
func (a *api) start(t *testing.T, node string) *agent {
	t.Helper()
	return a.startRotating(t, node, nil)
}

// startRotating is start, with a Config.Rotate.
func (a *api) startRotating(t *testing.T, node string, rotate func() error) *agent {
	t.Helper()
	ag := &agent{log: &logBuffer{}}
	config := a.config(node, ag.log, func() { ag.changes.Add(1) })
	config.Rotate = rotate
	ag.Kube = kube.New(config)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- ag.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	settle()
	return ag
}

func (a *api) config(node string, log *logBuffer, changed func()) kube.Config {
	return kube.Config{
		Client:    a.client,
		Metadata:  a.metadata,
		Node:      node,
		Namespace: "kube-system",
		Log:       slog.New(slog.NewTextHandler(log, nil)),
		Changed:   changed,
	}
}

// settle lets a bubble's time go on, so that whoever waits for a moment goes on, and then waits until nobody has
// anything to do.
func settle() {
	time.Sleep(2 * time.Second)
	synctest.Wait()
}

// logBuffer keeps log lines.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// take returns the lines since it was called last.
func (b *logBuffer) take() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	text := strings.TrimSpace(b.buf.String())
	b.buf.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func testNode(name string, cidrs ...string) *corev1.Node {
	node := &corev1.Node{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.NodeSpec{PodCIDRs: cidrs},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady"},
		}},
	}
	if len(cidrs) > 0 {
		node.Spec.PodCIDR = cidrs[0]
	}
	return node
}

func testPolicy(namespace, name string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-" + namespace + "-" + name)},
	}
}

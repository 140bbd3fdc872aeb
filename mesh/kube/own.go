package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// Own is what this node's agent says on its own Node.
type Own struct {
	Identity      keys.PublicIdentity
	PublicKey     keys.PublicKey // of the generation in use
	KeyGeneration uint32
	KeyRotatedAt  time.Time // when that key was made; zero: not said
	// Rotation is how far the rotation of keys is, as view.RotationStatus words it; "": not said. A new one is a write
	// to the API server.
	Rotation string
	// Ready says that this node can carry pod traffic: the condition NetworkUnavailable is then False. While it is
	// True, the scheduler gives the node no pods.
	Ready bool
	// Message is a sentence for the condition. A new one is a write to the API server: no counts or times in it.
	Message string
}

// Reasons of the condition NetworkUnavailable.
const (
	ReasonReady    = "WeaveguardReady"
	ReasonNotReady = "WeaveguardNotReady"
)

const (
	writeTimeout = 15 * time.Second
	// Somebody who undoes what we write, or a readiness that flaps, costs the API server a write each writeEvery.
	writeEvery = 5 * time.Second
	writeBurst = 10
)

// Report makes own what the own Node should say. It returns at once; the Node is compared with it again whenever
// either changes, and written only where it differs. Nothing is written before the first Report, nor while the Node
// doesn't exist.
func (k *Kube) Report(own Own) { k.own.set(own) }

// ownWriter keeps the own Node as Report says.
type ownWriter struct {
	client  kubernetes.Interface
	node    string
	seen    cache.Store // of trimmed *corev1.Node
	contact *contact
	wake    chan struct{} // of capacity 1
	limit   *rate.Limiter

	sending sync.Mutex // held while a write is under way: their answers come in their order

	mu      sync.Mutex
	own     *Own         // nil: nothing reported yet
	written *corev1.Node // trimmed, as the API server answered the last write
}

func newOwnWriter(config Config, seen cache.Store, c *contact) *ownWriter {
	return &ownWriter{
		client:  config.Client,
		node:    config.Node,
		seen:    seen,
		contact: c,
		wake:    make(chan struct{}, 1),
		limit:   rate.NewLimiter(rate.Every(writeEvery), writeBurst),
	}
}

func (w *ownWriter) set(own Own) {
	// As it is written: else the same moment in another time zone, or with a monotonic clock reading, would differ.
	own.KeyRotatedAt = own.KeyRotatedAt.UTC().Truncate(time.Second)
	w.mu.Lock()
	same := w.own != nil && *w.own == own
	w.own = &own
	w.mu.Unlock()
	if !same {
		w.wakeUp()
	}
}

func (w *ownWriter) wakeUp() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// retryBackoff is the time between tries of one thing that fails.
func retryBackoff() wait.Backoff {
	return wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 1, Steps: 10, Cap: time.Minute}
}

func (w *ownWriter) run(ctx context.Context) {
	backoff := retryBackoff()
	var failed wanted         // what couldn't be written last
	retry := time.NewTimer(0) // first: what was reported before run
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
			if failed != (wanted{}) && failed == w.wanted() {
				continue // the Node changes all the time, and that is no reason to hurry
			}
		case <-retry.C:
		}
		now := w.wanted()
		if w.write(ctx) {
			backoff, failed = retryBackoff(), wanted{}
			retry.Stop()
			continue
		}
		failed = now
		retry.Reset(backoff.Step())
	}
}

// wanted is what is to be written, and where.
type wanted struct {
	own  Own
	node types.UID
}

func (w *ownWriter) wanted() wanted {
	own, node := w.current()
	if own == nil || node == nil {
		return wanted{}
	}
	return wanted{*own, node.UID}
}

// write makes the Node as it was reported, and reports whether there is nothing left to do.
func (w *ownWriter) write(ctx context.Context) bool {
	own, node := w.current()
	if own == nil || node == nil {
		return true
	}
	if annotationsPatch(*own, node) == nil && conditionPatch(*own, node, time.Now()) == nil {
		w.contact.note(writingAnnotations, nil)
		w.contact.note(writingCondition, nil)
		return true
	}
	if err := w.limit.Wait(ctx); err != nil {
		return true // ctx has ended
	}
	own, node = w.current() // whatever came in the meantime
	if own == nil || node == nil {
		return true
	}
	errAnnotations := w.patch(ctx, types.MergePatchType, annotationsPatch(*own, node))
	errCondition := w.patch(ctx, types.StrategicMergePatchType, conditionPatch(*own, node, time.Now()), "status")
	if ctx.Err() != nil {
		return true
	}
	w.contact.note(writingAnnotations, errAnnotations)
	w.contact.note(writingCondition, errCondition)
	return errAnnotations == nil && errCondition == nil
}

// current returns what was reported, and the newest state of the own Node that is known, if any.
func (w *ownWriter) current() (*Own, *corev1.Node) {
	w.mu.Lock()
	own, written := w.own, w.written
	w.mu.Unlock()
	obj, ok, err := w.seen.GetByKey(w.node)
	if err != nil || !ok {
		return own, nil
	}
	node := obj.(*corev1.Node)
	if written != nil && written.UID == node.UID {
		// What came back from a write may not have come by the watch yet.
		if order, err := resourceversion.CompareResourceVersion(written.ResourceVersion, node.ResourceVersion); err == nil && order > 0 {
			return own, written
		}
	}
	return own, node
}

// patch sends a patch, unless it is nil. That there is no Node is no error.
func (w *ownWriter) patch(ctx context.Context, kind types.PatchType, patch any, subresources ...string) error {
	if patch == nil {
		return nil
	}
	err := w.send(ctx, kind, patch, subresources...)
	if apierrors.IsNotFound(err) {
		return nil // the watch tells when the Node exists again
	}
	return err
}

// send sends a patch, and keeps the Node that comes back.
func (w *ownWriter) send(ctx context.Context, kind types.PatchType, patch any, subresources ...string) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encoding a patch of node %s: %w", w.node, err)
	}
	w.sending.Lock()
	defer w.sending.Unlock()
	ctx, cancel := context.WithTimeoutCause(ctx, writeTimeout, errors.New("no answer in time"))
	defer cancel()
	node, err := w.client.CoreV1().Nodes().Patch(ctx, w.node, kind, body, metav1.PatchOptions{}, subresources...)
	if err != nil {
		return fmt.Errorf("patching node %s: %w", w.node, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.written = trimNode(node, true)
	return nil
}

// annotationsPatch returns the JSON merge patch (RFC 7386) that makes the annotations right, or nil.
func annotationsPatch(own Own, node *corev1.Node) any {
	want := map[string]string{contract.AnnotationKeyGeneration: strconv.FormatUint(uint64(own.KeyGeneration), 10)}
	if !own.Identity.IsZero() {
		want[contract.AnnotationIdentity] = own.Identity.String()
	}
	if !own.PublicKey.IsZero() {
		want[contract.AnnotationPublicKey] = own.PublicKey.String()
	}
	if !own.KeyRotatedAt.IsZero() {
		want[contract.AnnotationKeyRotatedAt] = own.KeyRotatedAt.Format(time.RFC3339)
	}
	if own.Rotation != "" {
		want[contract.AnnotationRotation] = own.Rotation
	}
	for key, value := range want {
		if has, ok := node.Annotations[key]; ok && has == value {
			delete(want, key)
		}
	}
	if len(want) == 0 {
		return nil
	}
	return map[string]any{"metadata": map[string]any{"annotations": want}}
}

// conditionPatch returns the strategic merge patch of the status (conditions merge by type) that makes the condition
// right, or nil.
func conditionPatch(own Own, node *corev1.Node, now time.Time) any {
	want := wantCondition(own)
	for _, has := range node.Status.Conditions {
		if has.Type != want.Type {
			continue
		}
		if sameCondition(has, want) {
			return nil
		}
		if has.Status == want.Status {
			want.LastTransitionTime = has.LastTransitionTime
		}
	}
	want.LastHeartbeatTime = metav1.NewTime(now)
	if want.LastTransitionTime.IsZero() {
		want.LastTransitionTime = want.LastHeartbeatTime
	}
	return map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{want}}}
}

func wantCondition(own Own) corev1.NodeCondition {
	condition := corev1.NodeCondition{
		Type:    corev1.NodeNetworkUnavailable,
		Status:  corev1.ConditionTrue,
		Reason:  ReasonNotReady,
		Message: own.Message,
	}
	if own.Ready {
		condition.Status, condition.Reason = corev1.ConditionFalse, ReasonReady
	}
	return condition
}

// sameCondition leaves the times out.
func sameCondition(a, b corev1.NodeCondition) bool {
	return a.Type == b.Type && a.Status == b.Status && a.Reason == b.Reason && a.Message == b.Message
}

package kube

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
)

// Types of an Event.
const (
	Normal  = corev1.EventTypeNormal
	Warning = corev1.EventTypeWarning
)

// Reasons of the Events about the rotation of this node's keys.
const (
	ReasonRotationStarted  = "KeyRotationStarted"
	ReasonRotationQueued   = "KeyRotationQueued"
	ReasonRotationFinished = "KeyRotationFinished"
	ReasonRotationWaiting  = "KeyRotationWaiting" // for peers that still need the old key
	ReasonRotationFailed   = "KeyRotationFailed"
	ReasonRotationRefused  = "KeyRotationRefused" // the request on the Node isn't one; this package writes it
)

const (
	// eventSource is who wrote an Event: what `kubectl describe` shows in its column From.
	eventSource = "weaveguard"
	// maxPendingEvents is how many Events wait for Run at most.
	maxPendingEvents = 64
)

// event is one that waits for Run.
type event struct {
	kind, reason, message string
}

// Event writes an Event on the own Node: kind is Normal or Warning, reason one word in CamelCase, message a sentence.
// It never waits. Events are for people to read: client-go counts equal ones instead of repeating them, lets through
// a burst of 25 and then one each five minutes, and drops them when the API server is away for minutes.
func (k *Kube) Event(kind, reason, message string) {
	select {
	case k.events <- event{kind, reason, message}:
	default:
		k.config.Log.Debug("too many Events wait: one is dropped", "reason", reason, "message", message)
	}
}

// recordEvents hands the Events over to client-go's recorder. It writes core/v1 Events, not those of events.k8s.io:
// only the former are rate-limited.
func (k *Kube) recordEvents(ctx context.Context) {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: k.config.Client.CoreV1().Events("")})
	recorder := broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: eventSource, Host: k.config.Node})
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-k.events:
			recorder.Event(k.ownReference(), e.kind, e.reason, e.message)
		}
	}
}

// ownReference names the own Node, with the UID once that is known.
func (k *Kube) ownReference() *corev1.ObjectReference {
	reference := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: k.config.Node, UID: types.UID(k.config.Node)}
	if obj, ok, err := k.nodes.GetStore().GetByKey(k.config.Node); ok && err == nil {
		reference.UID = obj.(*corev1.Node).UID
	}
	return reference
}

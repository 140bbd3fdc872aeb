package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"strconv"
	"time"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ReasonRecordRefused is the reason of Events about records that somebody gossips in a node's name and that count nowhere.
const ReasonRecordRefused = "RecordRefused"

const (
	// accusationPeriod is the time in which a Node gets one Event of a topic.
	accusationPeriod = 10 * time.Minute
	// accusationEvery and accusationBurst bound what one agent writes of all Nodes and topics: whoever has the gossip key
	// can speak in any number of names.
	accusationEvery = 10 * time.Second
	accusationBurst = 10
	// maxAccusations is how many wait at most.
	maxAccusations = 16
)

type accusation struct{ node, topic, message string }

// Accuse writes a Warning on a Node about a record that isn't taken: topic is one word, message a sentence. It never
// waits, and what is too much is dropped. All agents see the same, so all of them write one Event under the same name,
// of which the API server takes the first.
func (k *Kube) Accuse(node, topic, message string) {
	select {
	case k.accusations <- accusation{node, topic, message}:
	default:
		k.config.Log.Debug("too many Events wait: one is dropped", "node", node, "message", message)
	}
}

// recordAccusations writes what Accuse asks for.
func (k *Kube) recordAccusations(ctx context.Context) {
	limit := rate.NewLimiter(rate.Every(accusationEvery), accusationBurst)
	for {
		var a accusation
		select {
		case <-ctx.Done():
			return
		case a = <-k.accusations:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(rand.N(noticeSpread)):
		}
		obj, ok, err := k.nodes.GetStore().GetByKey(a.node)
		if err != nil || !ok || !limit.Allow() {
			continue
		}
		// In a big cluster it is enough that some try; that none does happens once in 10⁸ times.
		if agents := k.agents(); agents > maxSpeakers && rand.N(agents) >= maxSpeakers {
			continue
		}
		k.recordAccusation(ctx, obj.(*corev1.Node), a)
	}
}

func (k *Kube) recordAccusation(ctx context.Context, node *corev1.Node, a accusation) {
	now := metav1.Now()
	period := now.Unix() / int64(accusationPeriod/time.Second)
	hash := sha256.Sum256([]byte(string(node.UID) + "\x00" + a.topic + "\x00" + strconv.FormatInt(period, 10)))
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceDefault, Name: "weaveguard-refused." + hex.EncodeToString(hash[:8])},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID,
		},
		Type:                corev1.EventTypeWarning,
		Reason:              ReasonRecordRefused,
		Message:             a.message,
		Source:              corev1.EventSource{Component: eventSource, Host: k.config.Node},
		ReportingController: eventSource,
		ReportingInstance:   k.config.Node,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	_, err := k.config.Client.CoreV1().Events(event.Namespace).Create(ctx, event, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) && ctx.Err() == nil {
		k.config.Log.Debug("an Event isn't written", "node", node.Name, "message", a.message, "error", err)
	}
}

package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	// ReasonNotEnforced is the reason of the Event on each NetworkPolicy.
	ReasonNotEnforced = "NetworkPolicyNotEnforced"

	notEnforced = "Weaveguard doesn't enforce NetworkPolicies yet: this one has no effect"

	// The API server forgets an Event after an hour, so it is made again; each agent tries at its own time.
	noticeEvery = 30 * time.Minute
	// noticeSpread is the time over which the agents of a cluster spread their tries for one policy.
	noticeSpread = time.Second
	// maxSpeakers is how many agents of a big cluster try, on average.
	maxSpeakers = 20
)

// newPolicyInformer watches the metadata of all NetworkPolicies.
func newPolicyInformer(client metadata.Interface, c *contact) cache.SharedIndexInformer {
	policies := client.Resource(networkingv1.SchemeGroupVersion.WithResource("networkpolicies"))
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := policies.List(ctx, options)
			c.watched(ctx, watchingPolicies, err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			w, err := policies.Watch(ctx, options)
			c.watched(ctx, watchingPolicies, err)
			return w, err
		},
	}
	return cache.NewSharedIndexInformer(cache.ToListWatcherWithWatchListSemantics(lw, client),
		&metav1.PartialObjectMetadata{}, noticeEvery, nil)
}

// trimPolicy keeps what names a policy.
func trimPolicy(obj any) (any, error) {
	policy, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return obj, nil
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Namespace:       policy.Namespace,
		Name:            policy.Name,
		UID:             policy.UID,
		ResourceVersion: policy.ResourceVersion,
	}}, nil
}

// notices puts one Event on each NetworkPolicy, however many agents run: all of them make it under the same name,
// and the API server takes the first.
type notices struct {
	client  kubernetes.Interface
	seen    cache.Store // of trimmed *metav1.PartialObjectMetadata
	node    string
	contact *contact
	agents  func() int
	queue   workqueue.TypedRateLimitingInterface[string] // of seen's keys
}

func newNotices(config Config, seen cache.Store, c *contact, agents func() int) *notices {
	return &notices{
		client:  config.Client,
		seen:    seen,
		node:    config.Node,
		contact: c,
		agents:  agents,
		queue: workqueue.NewTypedRateLimitingQueue(
			spread{workqueue.NewTypedItemExponentialFailureRateLimiter[string](time.Second, 5*time.Minute)}),
	}
}

// spread has each try again at a time of its own, up to half of the pause later: all agents fail at once when the API server is
// away.
type spread struct {
	workqueue.TypedRateLimiter[string]
}

// When is workqueue's.
func (s spread) When(key string) time.Duration {
	pause := s.TypedRateLimiter.When(key)
	return pause + rand.N(pause/2+1)
}

// add takes a policy that is new.
func (n *notices) add(obj any) {
	if key, err := cache.MetaNamespaceKeyFunc(obj); err == nil {
		n.queue.AddAfter(key, rand.N(noticeSpread))
	}
}

// update takes a policy that changed, which needs no new Event, or that the informer shows again in its period.
func (n *notices) update(before, now any) {
	was, is := before.(*metav1.PartialObjectMetadata), now.(*metav1.PartialObjectMetadata)
	if was.UID != is.UID || was.ResourceVersion == is.ResourceVersion {
		n.add(now)
	}
}

// close ends the queue, and with it run.
func (n *notices) close() { n.queue.ShutDown() }

func (n *notices) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, n.close)
	defer stop()
	for {
		key, shutdown := n.queue.Get()
		if shutdown {
			return
		}
		err := n.notify(ctx, key)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			n.contact.note(writingPolicyEvents, err)
			n.queue.AddRateLimited(key)
		default:
			n.contact.note(writingPolicyEvents, nil)
			n.queue.Forget(key)
		}
		n.queue.Done(key)
	}
}

// notify makes the Event of one policy, unless it is there already or the policy is gone.
func (n *notices) notify(ctx context.Context, key string) error {
	obj, ok, err := n.seen.GetByKey(key)
	if err != nil || !ok {
		return err
	}
	// In a big cluster it is enough that some try; that none does happens once in 10⁸ times.
	if agents := n.agents(); agents > maxSpeakers && rand.N(agents) >= maxSpeakers {
		return nil
	}
	policy := obj.(*metav1.PartialObjectMetadata)
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	_, err = n.client.CoreV1().Events(policy.Namespace).Create(ctx, n.event(policy), metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case err != nil:
		return fmt.Errorf("creating the Event of NetworkPolicy %s: %w", key, err)
	}
	return nil
}

// event is the same for a policy whoever makes it, but for the times and the host.
func (n *notices) event(policy *metav1.PartialObjectMetadata) *corev1.Event {
	now := metav1.Now()
	hash := sha256.Sum256([]byte(policy.UID))
	return &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: policy.Namespace,
			Name:      "weaveguard-not-enforced." + hex.EncodeToString(hash[:8]),
		},
		InvolvedObject: corev1.ObjectReference{
			APIVersion:      networkingv1.SchemeGroupVersion.String(),
			Kind:            "NetworkPolicy",
			Namespace:       policy.Namespace,
			Name:            policy.Name,
			UID:             policy.UID,
			ResourceVersion: policy.ResourceVersion,
		},
		Type:                corev1.EventTypeWarning,
		Reason:              ReasonNotEnforced,
		Message:             notEnforced,
		Source:              corev1.EventSource{Component: eventSource, Host: n.node},
		ReportingController: eventSource,
		ReportingInstance:   n.node,
		FirstTimestamp:      now,
		LastTimestamp:       now,
		Count:               1,
	}
}

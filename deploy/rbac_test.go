package deploy_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

// access is one thing that is done or allowed: a verb on a resource. Name is "" unless a rule is for one object, and
// Namespace "" for the whole cluster.
type access struct {
	Verb, Group, Resource, Namespace, Name string
}

func (a access) String() string {
	return fmt.Sprintf("%s %s.%s %s/%s", a.Verb, a.Resource, a.Group, a.Namespace, a.Name)
}

// The roles allow all that the agent does, and nothing that it doesn't.
func TestRolesAreAsNarrowAsTheyWork(t *testing.T) {
	allowed := allowedAccess(t)
	used := map[access]bool{}
	for _, did := range agentAccess(t) {
		rule := slices.IndexFunc(allowed, func(may access) bool {
			return may.Verb == did.Verb && may.Group == did.Group && may.Resource == did.Resource &&
				(may.Namespace == "" || may.Namespace == did.Namespace) && (may.Name == "" || may.Name == did.Name)
		})
		if rule < 0 {
			t.Errorf("the agent does, and may not: %v", did)
			continue
		}
		used[allowed[rule]] = true
	}
	for _, may := range allowed {
		if !used[may] {
			t.Errorf("the agent may, and never does: %v", may)
		}
	}
}

// allowedAccess returns what the manifest's roles allow, one verb of one resource each.
func allowedAccess(t *testing.T) []access {
	t.Helper()
	var allowed []access
	add := func(namespace string, rules []rbacv1.PolicyRule) {
		for _, rule := range rules {
			if len(rule.APIGroups) != 1 || len(rule.NonResourceURLs) != 0 {
				t.Fatalf("rule: %+v", rule)
			}
			names := rule.ResourceNames
			if len(names) == 0 {
				names = []string{""}
			}
			for _, verb := range rule.Verbs {
				for _, resource := range rule.Resources {
					for _, name := range names {
						allowed = append(allowed, access{verb, rule.APIGroups[0], resource, namespace, name})
					}
				}
			}
		}
	}
	account := []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: "kube-system", Name: "weaveguard"}}
	objects := readManifest(t)
	for _, object := range objects {
		switch o := object.(type) {
		case *rbacv1.ClusterRole:
			add("", o.Rules)
		case *rbacv1.Role:
			add(o.Namespace, o.Rules)
		case *rbacv1.ClusterRoleBinding:
			get[*rbacv1.ClusterRole](t, objects, "ClusterRole /"+o.RoleRef.Name)
			if diff := cmp.Diff(account, o.Subjects); diff != "" {
				t.Errorf("%s is for (-want +got):\n%s", o.Name, diff)
			}
		case *rbacv1.RoleBinding:
			get[*rbacv1.Role](t, objects, "Role "+o.Namespace+"/"+o.RoleRef.Name)
			if diff := cmp.Diff(account, o.Subjects); diff != "" {
				t.Errorf("%s is for (-want +got):\n%s", o.Name, diff)
			}
		}
	}
	return allowed
}

// claimed is a claim of a pod CIDR, or the Lease that says what can be claimed.
func claimed(name, node string, owner *metav1.OwnerReference) *coordinationv1.Lease {
	l := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: kube.ClaimNamespace, Name: name, UID: types.UID(name), ResourceVersion: "1",
			Labels: map[string]string{"app.kubernetes.io/name": "weaveguard"}, Annotations: map[string]string{
				contract.AnnotationPodRange: "10.32.0.0/12,fd00:32::/48", contract.AnnotationMaskSize: "24,64",
			},
		},
		Spec: coordinationv1.LeaseSpec{HolderIdentity: &node},
	}
	if owner != nil {
		l.OwnerReferences = append(l.OwnerReferences, *owner)
	}
	return l
}

// agentAccess returns all that an agent asks of the API server, from an empty Secret on, and with a request on its Node
// to rotate its keys.
func agentAccess(t *testing.T) []access {
	t.Helper()
	var actions []ktesting.Action
	synctest.Test(t, func(t *testing.T) {
		scheme := metadatafake.NewTestScheme()
		if err := metav1.AddMetaToScheme(scheme); err != nil {
			t.Fatal(err)
		}
		policies := metadatafake.NewSimpleMetadataClient(scheme, &metav1.PartialObjectMetadata{
			TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "deny", UID: "1"},
		})
		client := fake.NewClientset(
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "2", Annotations: map[string]string{
				contract.AnnotationRotateKeys: contract.RotateNow,
			}}},
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, // that it looks for the admission policies with
			get[*corev1.Secret](t, readManifest(t), "Secret kube-system/"+kube.SecretName),
			// Of two families, where the node had a claim of the one before its Node was made again; and the Node of a third
			// claim is gone.
			claimed(kube.RangeLease, "", nil),
			claimed("v4-10.32.1.0-24", "n1", &metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: "n1", UID: "before"}),
			claimed("v4-10.32.2.0-24", "n2", &metav1.OwnerReference{APIVersion: "coordination.k8s.io/v1", Kind: "Lease",
				Name: kube.RangeLease, UID: kube.RangeLease}),
		)
		k := kube.New(kube.Config{Client: client, Metadata: policies, Node: "n1", Namespace: "kube-system",
			Claims: kube.Claims{Mode: kube.ClaimAuto, Bits4: 24, Bits6: 64}, Log: slog.New(slog.DiscardHandler), Rotate: func() error { return nil }})
		if _, err := k.Keyring(t.Context(), nil); err != nil {
			t.Error(err)
		}
		if _, err := k.PodSubnet(t.Context()); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- k.Run(ctx) }()
		k.Report(kube.Own{Ready: true, Rotation: "idle"})
		for range 2 { // the second is a patch
			time.Sleep(5 * time.Minute)
			k.Event(kube.Normal, "Started", "the agent has started")
		}
		time.Sleep(time.Minute)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		node, err := client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("nodes"), "", "n1")
		if err != nil {
			t.Fatal(err)
		}
		annotations := node.(*corev1.Node).Annotations
		if value, ok := annotations[contract.AnnotationRotateKeys]; ok || annotations[contract.AnnotationRotation] == "" {
			t.Errorf("the agent left the request for a rotation (%q), or wrote no annotations: %v", value, annotations)
		}
		actions = append(client.Actions(), policies.Actions()...)
	})
	var did []access
	for _, action := range actions {
		a := access{Verb: action.GetVerb(), Group: action.GetResource().Group, Resource: action.GetResource().Resource,
			Namespace: action.GetNamespace()}
		if sub := action.GetSubresource(); sub != "" {
			a.Resource += "/" + sub
		}
		switch action := action.(type) {
		case ktesting.GetAction:
			a.Name = action.GetName()
		case ktesting.UpdateAction:
			a.Name = action.GetObject().(metav1.Object).GetName()
		}
		did = append(did, a)
	}
	return did
}

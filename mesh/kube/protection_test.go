package kube_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

var policies = []string{kube.NodePolicy, kube.KeyringPolicy, kube.LeasePolicy}

// dryRunNode answers the probe for the policy of Nodes.
func (a *api) dryRunNode(patch ktesting.PatchActionImpl) (bool, runtime.Object, error) {
	object, err := a.client.Tracker().Get(nodesResource, "", patch.GetName())
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probed[kube.NodePolicy]++
	if patch.GetName() == agentNode || patch.GetSubresource() != "" {
		a.denied = append(a.denied, "a dry run on "+patch.GetName()+" "+patch.GetSubresource())
	}
	return true, object, cmp.Or(err, a.probe[kube.NodePolicy])
}

// dryRunSecret answers the probe for the policy of the keyring. As in an API server, a conflict comes before policies.
func (a *api) dryRunSecret(update ktesting.UpdateActionImpl) (bool, runtime.Object, error) {
	secret := update.GetObject().(*corev1.Secret)
	object, err := a.client.Tracker().Get(secretsResource, secret.Namespace, secret.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probed[kube.KeyringPolicy]++
	switch {
	case err != nil:
	case object.(*corev1.Secret).ResourceVersion != secret.ResourceVersion:
		err = apierrors.NewConflict(secretsResource.GroupResource(), secret.Name, errors.New("changed"))
	case len(object.(*corev1.Secret).Data) > 0:
		err = a.probe[kube.KeyringPolicy]
	}
	return true, object, err
}

// dryRunLease answers the probe for the policy of claims. As in an API server, policies come before what is there.
func (a *api) dryRunLease(l *coordinationv1.Lease) (bool, runtime.Object, error) {
	_, err := a.client.Tracker().Get(leasesResource, l.Namespace, l.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probed[kube.LeasePolicy]++
	switch {
	case a.probe[kube.LeasePolicy] != nil:
		err = a.probe[kube.LeasePolicy]
	case err == nil:
		err = apierrors.NewAlreadyExists(leasesResource.GroupResource(), l.Name)
	case apierrors.IsNotFound(err):
		err = nil
	}
	return true, l, err
}

// policyRefusal is how the API server words what one of the manifest's policies refuses.
func policyRefusal(policy string) error {
	err := apierrors.NewForbidden(nodesResource.GroupResource(), "n2", fmt.Errorf("ValidatingAdmissionPolicy '%s' "+
		`with binding '%s' denied request: the Weaveguard agent on node "n1" may not`, policy, policy))
	err.ErrStatus.Code, err.ErrStatus.Reason = http.StatusUnprocessableEntity, metav1.StatusReasonInvalid
	return err
}

// answerProbe sets what the probe for a policy gets from now on; nil: no policy refuses it.
func (a *api) answerProbe(policy string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probe[policy] = err
}

// probes is how often the agent looked for a policy since this was asked last.
func (a *api) probes(policy string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.probed[policy]
	a.probed[policy] = 0
	return n
}

// newProtectedAPI has two Nodes that have claimed their pod CIDRs, a keyring, and policies in force.
func newProtectedAPI(t *testing.T) *api {
	t.Helper()
	a := newClaimAPI(t, testNode(agentNode), testNode("n2"), testSecret(map[string]string{kube.SecretKey: "the key"}))
	a.put(t, rangeLease("10.32.0.0/12", "24"))
	a.put(t, claimLease("v4-10.32.1.0-24", agentNode))
	a.put(t, claimLease("v4-10.32.2.0-24", "n2"))
	return a
}

// startProtected runs an agent that claims.
func (a *api) startProtected(t *testing.T) *agent {
	t.Helper()
	ag, _ := a.startClaiming(t, agentNode, claiming())
	settle()
	return ag
}

// warned are the policies that an agent misses.
func warned(ag *agent) (all []string) {
	for _, problem := range ag.Snapshot().Problems {
		if policy, ok := strings.CutPrefix(problem.Subject, "admission policy "); ok && problem.Warning &&
			strings.Contains(problem.Remedy, "manifest") && strings.Contains(problem.Remedy, policy) {
			all = append(all, policy)
		}
	}
	return all
}

// protectionEvents counts the Events that a policy is missing, and that it is back.
func protectionEvents(t *testing.T, api *api, policy string) (missing, back int) {
	t.Helper()
	reasons := map[string][2]string{
		kube.NodePolicy:    {kube.ReasonNotProtected, kube.ReasonProtected},
		kube.KeyringPolicy: {kube.ReasonKeyringNotProtected, kube.ReasonKeyringProtected},
		kube.LeasePolicy:   {kube.ReasonClaimsNotProtected, kube.ReasonClaimsProtected},
	}[policy]
	for _, e := range api.events(t, "default") {
		if e.InvolvedObject.Name != agentNode || !strings.Contains(e.Message, policy) {
			continue
		}
		switch {
		case e.Reason == reasons[0] && e.Type == corev1.EventTypeWarning:
			missing += int(e.Count)
		case e.Reason == reasons[1] && e.Type == corev1.EventTypeNormal:
			back += int(e.Count)
		}
	}
	return missing, back
}

func TestProtectionComesAndGoes(t *testing.T) {
	for _, policy := range policies {
		t.Run(policy, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testProtectionComesAndGoes(t, policy) })
		})
	}
}

func testProtectionComesAndGoes(t *testing.T, policy string) {
	api := newProtectedAPI(t)
	ag := api.startProtected(t)
	time.Sleep(time.Minute)
	if n := api.probes(policy); len(warned(ag)) > 0 || n != 1 {
		t.Errorf("under the policy it warns of %q, and looked %d times", warned(ag), n)
	}
	ag.log.take()

	api.answerProbe(policy, nil)
	time.Sleep(time.Hour)
	synctest.Wait()
	missing, back := protectionEvents(t, api, policy)
	log := strings.Join(ag.log.take(), "\n")
	if !slices.Equal(warned(ag), []string{policy}) || missing != 1 || back != 0 {
		t.Errorf("problems %v, %d and %d Events", ag.Snapshot().Problems, missing, back)
	}
	if strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, policy) {
		t.Errorf("log %s", log)
	}

	// Unknown: neither a warning nor news.
	api.fail(errors.New("connection refused"))
	time.Sleep(time.Minute)
	synctest.Wait()
	if len(warned(ag)) > 0 {
		t.Error("it warns while the API server is away")
	}
	api.fail(nil)
	time.Sleep(10 * time.Minute)
	synctest.Wait()
	if missing, _ := protectionEvents(t, api, policy); !slices.Equal(warned(ag), []string{policy}) || missing != 1 {
		t.Errorf("after an outage: problems %v, %d Events", ag.Snapshot().Problems, missing)
	}

	ag.log.take()
	api.answerProbe(policy, policyRefusal(policy))
	time.Sleep(time.Minute)
	synctest.Wait()
	_, back = protectionEvents(t, api, policy)
	if log := strings.Join(ag.log.take(), "\n"); len(warned(ag)) > 0 || back != 1 || !strings.Contains(log, "again") {
		t.Errorf("problems %v, %d Events, log %s", ag.Snapshot().Problems, back, log)
	}
	api.probes(policy)
	time.Sleep(time.Hour)
	if n := api.probes(policy); n < 4 || n > 9 {
		t.Errorf("it looked %d times in an hour", n)
	}
	if len(api.denied) > 0 {
		t.Error(api.denied)
	}
}

// Only the policy's own refusal, or none at all, tells anything.
func TestProtectionIsUnknown(t *testing.T) {
	nodes := nodesResource.GroupResource()
	for name, answer := range map[string]error{
		"role":         apierrors.NewForbidden(nodes, "n2", errors.New(`User "x" cannot patch resource "nodes"`)),
		"other policy": apierrors.NewForbidden(nodes, "n2", errors.New("ValidatingAdmissionPolicy 'other' with binding 'other' denied request: no")),
		"webhook":      apierrors.NewForbidden(nodes, "n2", errors.New(`admission webhook "weaveguard-nodes" denied the request`)),
		"token":        apierrors.NewUnauthorized("who"),
		"gone":         apierrors.NewNotFound(nodes, "n2"),
		"changed":      apierrors.NewConflict(nodes, "n2", errors.New("changed")),
		"slow":         apierrors.NewServerTimeout(nodes, "patch", 1),
		"away":         context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newProtectedAPI(t)
				for _, policy := range policies {
					api.answerProbe(policy, answer)
				}
				ag := api.startProtected(t)
				time.Sleep(time.Hour)
				synctest.Wait()
				if len(warned(ag)) > 0 {
					t.Errorf("problems %v", ag.Snapshot().Problems)
				}
				for _, policy := range policies {
					if missing, back := protectionEvents(t, api, policy); missing+back > 0 {
						t.Errorf("%s has %d and %d Events", policy, missing, back)
					}
					if n := api.probes(policy); n < 60 { // as often as without an answer
						t.Errorf("it looked for %s %d times", policy, n)
					}
				}
			})
		})
	}
}

// An empty Secret, which agents may fill, tells nothing of the keyring's policy, and neither does a missing one.
func TestProtectionOfNoKeyring(t *testing.T) {
	for name, objects := range map[string][]runtime.Object{"empty": {testSecret(nil)}, "missing": nil} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI(t, append(objects, testNode(agentNode), testNode("n2"))...)
				api.answerProbe(kube.KeyringPolicy, nil)
				ag := api.start(t, agentNode)
				time.Sleep(time.Hour)
				synctest.Wait()
				if n := api.probes(kube.KeyringPolicy); n != 0 || len(warned(ag)) > 0 {
					t.Errorf("it tried %d times to write the Secret, and warns of %q", n, warned(ag))
				}
			})
		})
	}
}

// A Lease that is called like the one that is tried doesn't hide that no policy refused it.
func TestProtectionOfClaimsIsNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newProtectedAPI(t)
		api.put(t, claimLease("v4-0.0.0.0-32", "n2"))
		api.answerProbe(kube.LeasePolicy, nil)
		ag := api.startProtected(t)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Equal(warned(ag), []string{kube.LeasePolicy}) {
			t.Errorf("it warns of %q", warned(ag))
		}
	})
}

// Where no pod CIDR is claimed there is nothing to look for, whatever Leases there are.
func TestProtectionOfNoClaims(t *testing.T) {
	for name, c := range map[string]kube.Claims{"never": {}, "Kubernetes gives": claiming()} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newProtectedAPI(t)
				for i, node := range []string{agentNode, "n2"} {
					api.changeNode(t, node, func(n *corev1.Node) { n.Spec.PodCIDRs = []string{fmt.Sprintf("10.244.%d.0/24", i)} })
				}
				api.answerProbe(kube.LeasePolicy, nil)
				ag, _ := api.startClaiming(t, agentNode, c)
				time.Sleep(time.Hour)
				synctest.Wait()
				if n := api.probes(kube.LeasePolicy); n != 0 || len(warned(ag)) > 0 {
					t.Errorf("it tried %d times to claim for another, and warns of %q", n, warned(ag))
				}
			})
		})
	}
}

func TestProtectionOfASingleNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newClaimAPI(t, testNode(agentNode), testSecret(map[string]string{kube.SecretKey: "the key"}))
		for _, policy := range policies {
			api.answerProbe(policy, nil)
		}
		ag := api.startProtected(t)
		time.Sleep(time.Hour)
		for _, policy := range policies {
			if n := api.probes(policy); n != 0 {
				t.Errorf("it looked for %s %d times without another Node", policy, n)
			}
		}
		if len(warned(ag)) > 0 {
			t.Error("it warns without another Node")
		}
		api.add(t, testNode("n2"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if !slices.Equal(warned(ag), policies) {
			t.Errorf("once there is another Node, it warns of %q", warned(ag))
		}
	})
}

// A probe must change nothing, even if somebody ignored that it is a dry run.
func TestProtectionProbesAreHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newProtectedAPI(t)
		ag := api.startProtected(t)
		var claim *coordinationv1.Lease
		before := map[string]any{"nodes": api.node(t, "n2")}
		secret, err := api.client.Tracker().Get(secretsResource, "kube-system", kube.SecretName)
		if err != nil {
			t.Fatal(err)
		}
		before["secrets"] = secret.DeepCopyObject()
		time.Sleep(time.Minute)
		seen := map[string]int{}
		for _, action := range api.client.Actions() {
			var after any
			var dry []string
			switch action := action.(type) {
			case ktesting.PatchActionImpl:
				if action.Name != "n2" {
					continue
				}
				if after, err = patched(api.node(t, "n2"), action); err != nil {
					t.Fatal(err)
				}
				dry = action.PatchOptions.DryRun
			case ktesting.UpdateActionImpl:
				after, dry = action.Object, action.UpdateOptions.DryRun
			case ktesting.CreateActionImpl:
				if action.Resource != leasesResource {
					continue
				}
				claim = action.Object.(*coordinationv1.Lease)
				dry = action.CreateOptions.DryRun
			default:
				continue
			}
			resource := action.GetResource().Resource
			seen[resource]++
			if diff := gocmp.Diff(before[resource], after, cmpopts.EquateEmpty()); diff != "" || !slices.Equal(dry, []string{metav1.DryRunAll}) {
				t.Errorf("dry run %v of %s would change (-before +after):\n%s", dry, resource, diff)
			}
		}
		if seen["nodes"] == 0 || seen["secrets"] == 0 || claim == nil {
			t.Fatalf("it probed %v", seen)
		}
		// As a Lease it would be the other node's, and count for nobody.
		had := podCIDRs(ag.Snapshot(), "n2")
		claim.Spec.AcquireTime = nil
		api.put(t, claim)
		api.removeLease(t, "v4-10.32.2.0-24")
		pass(time.Second)
		if *claim.Spec.HolderIdentity != "n2" || podCIDRs(ag.Snapshot(), "n2") != had {
			t.Errorf("n2 has %s with the probe %+v, and had %s", podCIDRs(ag.Snapshot(), "n2"), claim, had)
		}
	})
}

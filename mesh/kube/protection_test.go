package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

// answerProbe sets what the probe gets from now on; nil: no policy refuses it.
func (a *api) answerProbe(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.probe = err
}

func (a *api) probes() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.probed
	a.probed = 0
	return n
}

func warnsOfProtection(ag *agent) bool {
	for _, problem := range ag.Snapshot().Problems {
		if problem.Subject == "admission policy" {
			return problem.Warning && strings.Contains(problem.Remedy, "manifest")
		}
	}
	return false
}

func protectionEvents(t *testing.T, api *api) (missing, back int) {
	t.Helper()
	for _, e := range api.events(t, "default") {
		switch {
		case e.Reason == kube.ReasonNotProtected && e.InvolvedObject.Name == agentNode && e.Type == corev1.EventTypeWarning:
			missing += int(e.Count)
		case e.Reason == kube.ReasonProtected && e.InvolvedObject.Name == agentNode && e.Type == corev1.EventTypeNormal:
			back += int(e.Count)
		}
	}
	return missing, back
}

func TestProtectionComesAndGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode(agentNode), testNode("n2"))
		ag := api.start(t, agentNode)
		time.Sleep(time.Minute)
		if warnsOfProtection(ag) || api.probes() != 1 {
			t.Error("it warns under the policy, or didn't look once")
		}
		ag.log.take()

		api.answerProbe(nil)
		time.Sleep(time.Hour)
		synctest.Wait()
		missing, back := protectionEvents(t, api)
		if log := strings.Join(ag.log.take(), "\n"); !warnsOfProtection(ag) || missing != 1 || back != 0 ||
			strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, "weaveguard-nodes") {
			t.Errorf("problems %v, %d and %d Events, log %s", ag.Snapshot().Problems, missing, back, log)
		}

		// Unknown: neither a warning nor news.
		api.fail(errors.New("connection refused"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if warnsOfProtection(ag) {
			t.Error("it warns while the API server is away")
		}
		api.fail(nil)
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if missing, _ := protectionEvents(t, api); !warnsOfProtection(ag) || missing != 1 {
			t.Errorf("after an outage: problems %v, %d Events", ag.Snapshot().Problems, missing)
		}

		ag.log.take()
		api.answerProbe(policyRefusal())
		time.Sleep(time.Minute)
		synctest.Wait()
		_, back = protectionEvents(t, api)
		if log := strings.Join(ag.log.take(), "\n"); warnsOfProtection(ag) || back != 1 || !strings.Contains(log, "again") {
			t.Errorf("problems %v, %d Events, log %s", ag.Snapshot().Problems, back, log)
		}
		api.probes()
		time.Sleep(time.Hour)
		if n := api.probes(); n < 4 || n > 9 {
			t.Errorf("it looked %d times in an hour", n)
		}
		if len(api.denied) > 0 {
			t.Error(api.denied)
		}
	})
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
		"slow":         apierrors.NewServerTimeout(nodes, "patch", 1),
		"away":         context.DeadlineExceeded,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI(t, testNode(agentNode), testNode("n2"))
				api.answerProbe(answer)
				ag := api.start(t, agentNode)
				time.Sleep(time.Hour)
				synctest.Wait()
				if missing, back := protectionEvents(t, api); warnsOfProtection(ag) || missing+back > 0 {
					t.Errorf("problems %v, Events %d %d", ag.Snapshot().Problems, missing, back)
				}
				if n := api.probes(); n < 2 {
					t.Errorf("it looked %d times", n)
				}
			})
		})
	}
}

func TestProtectionOfASingleNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode(agentNode))
		api.answerProbe(nil)
		ag := api.start(t, agentNode)
		time.Sleep(time.Hour)
		if api.probes() != 0 || warnsOfProtection(ag) {
			t.Error("it probed or warned without another Node")
		}
		api.add(t, testNode("n2"))
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if !warnsOfProtection(ag) {
			t.Error("it doesn't warn once there is another Node")
		}
	})
}

// The probe must change nothing, even if somebody ignored that it is a dry run.
func TestProtectionProbeIsHarmless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode(agentNode), testNode("n2"))
		api.start(t, agentNode)
		time.Sleep(time.Minute)
		seen := 0
		for _, action := range api.client.Actions() {
			patch, ok := action.(ktesting.PatchActionImpl)
			if !ok || patch.Name != "n2" {
				continue
			}
			seen++
			before := api.node(t, "n2")
			after, err := patched(before, patch)
			if err != nil {
				t.Fatal(err)
			}
			a, _ := json.Marshal(before)
			b, _ := json.Marshal(after)
			if string(a) != string(b) || len(patch.PatchOptions.DryRun) != 1 || patch.PatchOptions.DryRun[0] != "All" {
				t.Errorf("it makes %s, dry run %v", b, patch.PatchOptions.DryRun)
			}
		}
		if seen == 0 {
			t.Error("no probe")
		}
	})
}

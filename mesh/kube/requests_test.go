package kube_test

import (
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	ktesting "k8s.io/client-go/testing"
)

const requestKey = "weaveguard.io/rotate-keys"

func TestRequestIsNotedAndRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"), testNode("n2"))
		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate)
		agent.Report(testOwn())
		settle()
		api.accepted()
		agent.log.take()
		r.during(func() {
			if _, ok := api.node(t, "n1").Annotations[requestKey]; !ok {
				t.Error("the request is removed before it is noted")
			}
		})
		for i := range 3 { // the same command works again
			api.ask(t, "n1", "now")
			settle()
			wantPatches(t, api, removal("now"))
			r.want(t, i+1)
		}
		if got := api.node(t, "n1").Annotations; len(got) != 3 {
			t.Errorf("the Node has %v", got)
		}

		api.ask(t, "n2", "now")
		settle()
		wantPatches(t, api)
		r.want(t, 3)
		wantNoFuss(t, api, agent)
	})
}

func TestRequestFromBeforeTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		api.ask(t, "n1", "now")
		api.start(t, agentNode) // without Rotate
		time.Sleep(time.Hour)
		wantPatches(t, api)

		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate) // with nothing reported yet
		wantPatches(t, api, removal("now"))
		r.want(t, 1)

		deleteNode(t, api)
		settle()
		again := testNode("n1")
		metav1.SetMetaDataAnnotation(&again.ObjectMeta, requestKey, "now")
		api.add(t, again)
		settle()
		wantPatches(t, api, removal("now"))
		r.want(t, 2)
		wantNoFuss(t, api, agent)
	})
}

// Somebody who undoes what the agent writes makes it write slowly, but doesn't hold up requests.
func TestRequestsDontWaitForTheRateLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate)
		agent.Report(testOwn())
		for i := range 60 {
			api.changeNode(t, "n1", func(n *corev1.Node) {
				metav1.SetMetaDataAnnotation(&n.ObjectMeta, "weaveguard.io/public-key", "forged")
				metav1.SetMetaDataAnnotation(&n.ObjectMeta, requestKey, "now")
			})
			time.Sleep(time.Second / 2)
			synctest.Wait()
			r.want(t, i+1)
			if got, ok := api.node(t, "n1").Annotations[requestKey]; ok {
				t.Fatalf("after request %d: still %q", i+1, got)
			}
		}
		if n := len(api.accepted()); n < 60+10 || n > 60+20 {
			t.Errorf("%d writes", n)
		}
	})
}

// What the watch shows late, from before a request was removed, isn't another request.
func TestRequestCountsOnceWhileTheWatchLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		watches := api.handWatches()
		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate)
		w := <-watches
		api.ask(t, "n1", "now")
		asked := api.node(t, "n1")
		api.changeNode(t, "n1", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{"10.32.1.0/24"} })
		later := api.node(t, "n1")

		w.Modify(asked)
		settle()
		wantPatches(t, api, removal("now"))
		r.want(t, 1)
		agent.Report(testOwn()) // what comes back from these writes is newer than the watch too
		settle()
		if n := len(api.accepted()); n != 2 {
			t.Errorf("%d patches", n)
		}
		w.Modify(later)
		time.Sleep(time.Hour)
		w.Modify(api.node(t, "n1"))
		time.Sleep(time.Hour)
		wantPatches(t, api)
		r.want(t, 1)

		api.ask(t, "n1", "now")
		w.Modify(api.node(t, "n1"))
		settle()
		wantPatches(t, api, removal("now"))
		r.want(t, 2)
		wantNoFuss(t, api, agent)
	})
}

// A Node with the same annotations as the watch showed last has another request, if one was removed in between.
func TestRequestDuringAGapOfTheWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		watches := api.handWatches()
		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate)
		w := <-watches
		api.ask(t, "n1", "now")
		w.Modify(api.node(t, "n1"))
		settle()
		r.want(t, 1)

		api.ask(t, "n1", "now")
		w.Error(&metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonExpired, Code: 410})
		settle()
		wantPatches(t, api, removal("now"), removal("now"))
		r.want(t, 2)
		wantNoFuss(t, api, agent)
	})
}

func TestRequestThatCannotBeNoted(t *testing.T) {
	ends := []func(*testing.T, *api){withdraw, deleteNode}
	synctest.Test(t, func(t *testing.T) {
		api := newAPI(t, testNode("n1"))
		r := &rotations{}
		agent := api.startRotating(t, agentNode, r.rotate)
		agent.log.take()
		fails := func() {
			t.Helper()
			r.fail(errors.New("no space left on device"))
			api.ask(t, "n1", "now")
			wantChange(t, agent, "a request that can't be noted")
			for i := range 300 { // other news of the Node don't make it try more often
				api.changeNode(t, "n1", func(n *corev1.Node) { n.Spec.PodCIDRs = []string{[]string{"10.32.1.0/24", "10.32.2.0/24"}[i%2]} })
				time.Sleep(time.Second)
			}
			if n := r.take(); n < 8 || n > 20 {
				t.Errorf("%d tries in five minutes", n)
			}
			s := agent.Snapshot()
			wantProblem(t, s, requestKey, "no space left", "/var/lib/weaveguard")
			if !s.Reachable {
				t.Error("the API server isn't what fails")
			}
			wantPatches(t, api)
		}

		fails()
		r.fail(nil)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		wantPatches(t, api, removal("now"))
		r.want(t, 1)
		wantNoFuss(t, api, agent)

		for _, end := range ends {
			fails()
			end(t, api)
			wantChange(t, agent, "the request is withdrawn")
			wantNoFuss(t, api, agent)
			time.Sleep(time.Hour)
			wantPatches(t, api)
			r.want(t, 0)
		}
	})
}

func TestOtherValuesAreRefused(t *testing.T) {
	for _, tt := range []struct{ value, shown, patched string }{
		{"later", `"later"`, `"later"`},
		{"", `""`, `""`},
		{"Now", `"Now"`, `"Now"`},
		{"now ", `"now "`, `"now "`},
		{"a\x1b[2J\n\u202e", `"a\x1b[2J\n\u202e"`, `"a\u001b[2J\n` + "\u202e" + `"`},
		{strings.Repeat("ü", 41), `"` + strings.Repeat("ü", 40) + `…"`, `"` + strings.Repeat("ü", 41) + `"`},
	} {
		t.Run(tt.value, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				api := newAPI(t, testNode("n1"))
				r := &rotations{}
				agent := api.startRotating(t, agentNode, r.rotate)
				agent.log.take()
				allow := api.refusePatches()
				api.ask(t, "n1", tt.value)
				time.Sleep(30 * time.Minute) // retries repeat nothing
				events := api.events(t, metav1.NamespaceDefault)
				if len(events) != 1 {
					t.Fatalf("%d Events, want one", len(events))
				}
				e, want := events[0], requestKey+"="+tt.shown+` is refused and removed: the one value that it takes is "now"`
				if e.Type != "Warning" || e.Reason != "KeyRotationRefused" || e.Count != 1 ||
					e.InvolvedObject.Name != agentNode || !strings.Contains(e.Message, want) {
					t.Errorf("Event: %+v, want %s", e, want)
				}
				wantLog(t, agent, "level=WARN msg=\"refused a request to rotate keys\" annotation="+requestKey)

				allow()
				time.Sleep(2 * time.Minute)
				synctest.Wait()
				wantPatches(t, api, strings.Replace(removal(""), `""`, tt.patched, 1))
				r.want(t, 0)
				api.ask(t, "n1", "now")
				settle()
				wantPatches(t, api, removal("now"))
				r.want(t, 1)
				if problems := agent.Snapshot().Problems; len(problems) != 0 {
					t.Errorf("problems: %v", problems)
				}
			})
		})
	}
}

// rotations is a Config.Rotate.
type rotations struct {
	mu        sync.Mutex
	calls     int
	err       error
	meanwhile func()
}

func (r *rotations) rotate() error {
	r.mu.Lock()
	r.calls++
	err, meanwhile := r.err, r.meanwhile
	r.mu.Unlock()
	if meanwhile != nil {
		meanwhile()
	}
	return err
}

// fail makes every call fail with err from now on; nil ends that.
func (r *rotations) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// during makes meanwhile happen in every call from now on; nil ends that.
func (r *rotations) during(meanwhile func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.meanwhile = meanwhile
}

// take returns how many calls there were since it was called last.
func (r *rotations) take() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = 0
	return calls
}

func (r *rotations) want(t *testing.T, calls int) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.calls != calls {
		t.Fatalf("%d rotations noted, want %d", r.calls, calls)
	}
}

// ask is `kubectl annotate --overwrite node`.
func (a *api) ask(t *testing.T, node, value string) {
	t.Helper()
	a.changeNode(t, node, func(n *corev1.Node) { metav1.SetMetaDataAnnotation(&n.ObjectMeta, requestKey, value) })
}

func withdraw(t *testing.T, api *api) {
	t.Helper()
	api.changeNode(t, agentNode, func(n *corev1.Node) { delete(n.Annotations, requestKey) })
}

// handWatches makes watches of Nodes show only what the test has them show.
func (a *api) handWatches() <-chan *watch.FakeWatcher {
	watches := make(chan *watch.FakeWatcher, 10)
	a.client.PrependWatchReactor("nodes", func(ktesting.Action) (bool, watch.Interface, error) {
		w := watch.NewFake()
		watches <- w
		return true, w, nil
	})
	return watches
}

// removal is the patch that removes a request.
func removal(value string) string {
	path := `"path":"/metadata/annotations/weaveguard.io~1rotate-keys"`
	return ` [{"op":"test",` + path + `,"value":"` + value + `"},{"op":"remove",` + path + `}]`
}

// wantNoFuss wants that there is no Event, no problem, and that nothing was logged but of the start.
func wantNoFuss(t *testing.T, api *api, agent *agent) {
	t.Helper()
	if events := api.events(t, metav1.NamespaceDefault); len(events) != 0 {
		t.Errorf("Events: %+v", events)
	}
	if problems := agent.Snapshot().Problems; len(problems) != 0 {
		t.Errorf("problems: %v", problems)
	}
	for _, line := range agent.log.take() {
		if !strings.Contains(line, "watching Kubernetes") {
			t.Errorf("logged: %s", line)
		}
	}
}

package product_test

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	authenticationv1 "k8s.io/api/authentication/v1"
)

// screenful is how many lines of log an operator reads at once.
const screenful = 60

// testLog shows that `kubectl logs POD weave -n kube-system` tells what happened in a healthy start, in a screenful.
func (w *world) testLog(t *testing.T) {
	for _, node := range w.nodes {
		log, err := w.log(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		lines := firstMinute(t, log)
		if len(lines) > screenful {
			t.Errorf("the first minute on %s took %d lines, want at most %d", node, len(lines), screenful)
		}
		status, err := w.status(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		want := [][]string{
			{"weaveguard-agent starts", "version=" + status.Version, "node=" + node},
			{"ready: pods can be attached", w.pods[node].String()},
		}
		for _, other := range w.nodes {
			if other != node {
				want = append(want, []string{"peer is up", "node=" + other, w.address[other].String(), w.pods[other].String()})
			}
		}
		for _, words := range want {
			if !slices.ContainsFunc(lines, func(line string) bool { return saysAll(line, words) }) {
				t.Errorf("the first minute on %s doesn't say %q", node, words)
			}
		}
		for _, line := range lines {
			if strings.Contains(line, "level=ERROR") {
				t.Errorf("a healthy start on %s has the error: %s", node, line)
			}
		}
		if t.Failed() {
			t.Logf("the log of %s:\n%s", node, strings.Join(lines, "\n"))
		}
	}
}

// firstMinute are the lines of a log's first minute.
func firstMinute(t *testing.T, log string) []string {
	t.Helper()
	var lines []string
	for line := range strings.Lines(log) {
		lines = append(lines, strings.TrimSpace(line))
	}
	if len(lines) == 0 {
		t.Fatal("the log is empty")
	}
	end := timeOf(t, lines[0]).Add(time.Minute)
	if i := slices.IndexFunc(lines, func(line string) bool { return timeOf(t, line).After(end) }); i >= 0 {
		return lines[:i]
	}
	return lines
}

var logTime = regexp.MustCompile(`^time=(\S+) `)

// timeOf is when a line was logged.
func timeOf(t *testing.T, line string) time.Time {
	t.Helper()
	match := logTime.FindStringSubmatch(line)
	if match == nil {
		t.Fatalf("the log has the line %q", line)
	}
	at, err := time.Parse(time.RFC3339Nano, match[1])
	if err != nil {
		t.Fatalf("the log has the line %q: %v", line, err)
	}
	return at
}

// testStatus shows that `weaveguard status` says in words that all is well.
func (w *world) testStatus(t *testing.T) {
	for _, node := range w.nodes {
		text, err := w.cli(t.Context(), node, "status", "--check")
		if err != nil || !strings.HasPrefix(text, "healthy: 2 of 2 peers are up") {
			t.Errorf("weaveguard status on %s: %v\n%s", node, err, text)
		}
		condition := condition(w.nodeObject(t, node))
		if condition.Status != corev1.ConditionFalse || condition.Reason != "WeaveguardReady" {
			t.Errorf("%s has NetworkUnavailable %q: %s: %s", node, condition.Status, condition.Reason, condition.Message)
		}
	}
}

// testNetworkPolicy shows that a NetworkPolicy, which isn't enforced yet, isn't ignored in silence.
func (w *world) testNetworkPolicy(t *testing.T) {
	const policy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny-all, namespace: default}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
`
	if _, err := w.KubectlApply(t.Context(), policy); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "an Event regards the policy", func(ctx context.Context) error {
		events, err := w.Client().CoreV1().Events(metav1.NamespaceDefault).List(ctx, metav1.ListOptions{
			FieldSelector: "involvedObject.kind=NetworkPolicy,involvedObject.name=deny-all",
		})
		if err != nil {
			return err
		}
		for _, e := range events.Items {
			if e.Type == corev1.EventTypeWarning && saysAll(e.Message, []string{"doesn't enforce", "no effect"}) {
				return nil
			}
		}
		return fmt.Errorf("its Events are %+v", events.Items)
	})
	for _, node := range w.nodes {
		w.awaitProblem(t, node, "NetworkPolicies", "the cluster has 1", "doesn't enforce")
	}
	text, err := w.cli(t.Context(), w.nodes[0], "status")
	if err != nil || !saysAll(text, []string{"NetworkPolicies: the cluster has 1"}) {
		t.Errorf("weaveguard status says %v\n%s", err, text)
	}
	w.kubectl(t, "delete", "networkpolicy", "deny-all")
	for _, node := range w.nodes {
		w.eventually(t, node+" says nothing of NetworkPolicies any more", func(ctx context.Context) error {
			status, err := w.status(ctx, node)
			if err != nil {
				return err
			}
			for _, problem := range status.Problems {
				if problem.Subject == "NetworkPolicies" {
					return fmt.Errorf("it says %v", problem)
				}
			}
			return nil
		})
	}
}

// testHostPort shows that a pod's hostPort is reached on its node.
func (w *world) testHostPort(t *testing.T) {
	node := w.nodes[1]
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: host-port, namespace: default}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 0
  tolerations: [{operator: Exists}]
  containers:
  - name: main
    image: %s
    imagePullPolicy: Never
    ports:
    - {containerPort: %d, hostPort: 8888, protocol: TCP}
    - {containerPort: %d, hostPort: 9901, protocol: UDP}
`, node, "weaveguard.test/probe:dev", httpPort, echoPort)
	if _, err := w.KubectlApply(t.Context(), manifest); err != nil {
		t.Fatal(err)
	}
	if err := w.WaitPodReady(t.Context(), "host-port"); err != nil {
		t.Fatal(err)
	}
	to := w.address[node].String()
	for _, from := range []place{{name: "outside"}, {name: w.nodes[0]}, {name: node}, {pod1, true}, {pod2, true}} {
		if s, err := w.get(t.Context(), from, to, 8888); err != nil || s.Hostname != "host-port" {
			t.Errorf("%v to hostPort 8888 of %s: %+v, %v", from, node, s, err)
		}
		if _, err := w.ask(t.Context(), from, "udp", join(to, 9901)); err != nil {
			t.Errorf("%v to hostPort 9901 of %s: %v", from, node, err)
		}
	}
	if err := w.DeletePod(t.Context(), "host-port"); err != nil {
		t.Fatal(err)
	}
	// Without a grace period the API server forgets the pod before the kubelet has ended it.
	w.eventually(t, "hostPort 8888 is closed", func(ctx context.Context) error {
		if s, err := w.get(ctx, place{name: "outside"}, to, 8888); err == nil {
			return fmt.Errorf("it answers after its pod is gone: %+v", s)
		}
		return nil
	})
}

// testApplyAgain shows that the manifest can be applied again: the gossip key stays, and so do the agents.
func (w *world) testApplyAgain(t *testing.T) {
	secret := func() *corev1.Secret {
		s, err := w.Client().CoreV1().Secrets(system).Get(t.Context(), "weaveguard-gossip", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before, agents := secret(), w.agentStarts(t)
	if len(before.Data["keyring"]) == 0 {
		t.Errorf("the Secret has no keyring, only %d other values", len(before.Data))
	}
	said, err := w.KubectlApply(t.Context(), w.manifest)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(said) {
		if !strings.HasSuffix(strings.TrimSpace(line), " unchanged") {
			t.Errorf("applied again: %s", line)
		}
	}
	if after := secret(); after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the gossip Secret changed, from version %s to %s", before.ResourceVersion, after.ResourceVersion)
	}
	if now := w.agentStarts(t); !slices.Equal(now, agents) {
		t.Errorf("agents were %v and are %v", agents, now)
	}
}

// testAccess shows what the service account's token may do, and what it may not.
func (w *world) testAccess(t *testing.T) {
	account := w.accountClient(t)
	const other = "somebody-elses"
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: other}, StringData: map[string]string{"password": "x"}}
	if _, err := w.Client().CoreV1().Secrets(system).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's context has ended by now.
		if err := w.Client().CoreV1().Secrets(system).Delete(context.Background(), other, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	if _, err := account.CoreV1().Secrets(system).Get(t.Context(), other, metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("reading another Secret: %v, want it forbidden", err)
	}
	if _, err := account.CoreV1().Secrets(system).Get(t.Context(), "weaveguard-gossip", metav1.GetOptions{}); err != nil {
		t.Errorf("reading its own Secret: %v", err)
	}
	for _, c := range []struct {
		may                                 bool
		verb, group, resource, sub, ns, the string
	}{
		{true, "list", "", "nodes", "", "", ""},
		{true, "patch", "", "nodes", "", "", w.nodes[0]},
		{true, "patch", "", "nodes", "status", "", w.nodes[0]},
		{false, "delete", "", "nodes", "", "", w.nodes[0]},
		{false, "update", "", "nodes", "", "", w.nodes[0]},
		{false, "create", "", "nodes", "proxy", "", w.nodes[0]},
		{true, "update", "", "secrets", "", system, "weaveguard-gossip"},
		{false, "delete", "", "secrets", "", system, "weaveguard-gossip"},
		{false, "list", "", "secrets", "", system, ""},
		{false, "list", "", "secrets", "", "", ""},
		{false, "create", "", "secrets", "", system, ""},
		{false, "get", "", "secrets", "", "default", "weaveguard-gossip"},
		{false, "list", "", "pods", "", "", ""},
		{false, "create", "", "pods", "", system, ""},
		{false, "create", "", "pods", "exec", system, ""},
		{false, "create", "", "serviceaccounts", "token", system, "weaveguard"},
		{true, "list", "networking.k8s.io", "networkpolicies", "", "", ""},
		{false, "delete", "networking.k8s.io", "networkpolicies", "", "", ""},
		{true, "create", "", "events", "", "default", ""},
		{true, "create", "coordination.k8s.io", "leases", "", "weaveguard", ""},
		{false, "patch", "coordination.k8s.io", "leases", "", "weaveguard", ""},
		{false, "list", "coordination.k8s.io", "leases", "", "kube-node-lease", ""},
		{false, "create", "", "configmaps", "", "weaveguard", ""},
		{false, "*", "*", "*", "", "", ""},
	} {
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Namespace: c.ns, Verb: c.verb, Group: c.group, Resource: c.resource, Subresource: c.sub, Name: c.the,
			},
		}}
		answer, err := account.AuthorizationV1().SelfSubjectAccessReviews().Create(t.Context(), review, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if answer.Status.Allowed != c.may {
			t.Errorf("the service account may %s %s/%s of group %q, %q in %q: %t, want %t",
				c.verb, c.resource, c.sub, c.group, c.the, c.ns, answer.Status.Allowed, c.may)
		}
	}
}

// accountClient speaks to the API server with a token of the agents' service account, and nothing else.
func (w *world) accountClient(t *testing.T) kubernetes.Interface {
	t.Helper()
	token, err := w.Client().CoreV1().ServiceAccounts(system).CreateToken(t.Context(), "weaveguard", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", w.Kubeconfig())
	if err != nil {
		t.Fatal(err)
	}
	config = rest.AnonymousClientConfig(config)
	config.BearerToken = token.Status.Token
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

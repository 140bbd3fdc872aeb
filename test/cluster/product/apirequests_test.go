package product_test

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"
)

// flowSchema has the API server count the agents' requests apart.
const flowSchema = `
apiVersion: flowcontrol.apiserver.k8s.io/v1
kind: FlowSchema
metadata: {name: weaveguard-counted}
spec:
  matchingPrecedence: 100
  priorityLevelConfiguration: {name: workload-high}
  distinguisherMethod: {type: ByUser}
  rules:
  - subjects: [{kind: ServiceAccount, serviceAccount: {name: weaveguard, namespace: kube-system}}]
    resourceRules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"], namespaces: ["*"], clusterScope: true}]
`

const (
	// quiet is how long requests are counted while nothing happens in the cluster.
	quiet = 30 * time.Second
	// mostRequests is how many a minute an agent may make then: watches that end and begin anew, a look at the gossip key now
	// and then, and whether the policies still hold.
	mostRequests = 15
)

// testAPIRequests counts what agents ask of the API server in a cluster where nothing happens.
func (w *world) testAPIRequests(t *testing.T) {
	if _, err := w.KubectlApply(t.Context(), flowSchema); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := w.Kubectl(context.Background(), "delete", "flowschema", "weaveguard-counted"); err != nil {
			t.Error(err)
		}
	})
	var first int
	w.eventually(t, "the API server counts the agents' requests", func(ctx context.Context) (err error) {
		first, err = w.agentRequests(ctx)
		return err
	})
	begin := time.Now()
	pass(t, begin, quiet)
	last, err := w.agentRequests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	each := float64(last-first) / time.Since(begin).Minutes() / float64(len(w.nodes))
	t.Logf("while nothing happens each agent makes %.1f requests a minute to the API server", each)
	if each > mostRequests {
		t.Errorf("want at most %d", mostRequests)
	}
}

// agentRequests is how many of the agents' requests the API server has counted.
func (w *world) agentRequests(ctx context.Context) (int, error) {
	text, err := w.Kubectl(ctx, "get", "--raw", "/metrics")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "apiserver_flowcontrol_dispatched_requests_total{") && strings.Contains(line, `flow_schema="weaveguard-counted"`) {
			fields := strings.Fields(line)
			n, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			return int(n), err
		}
	}
	return 0, errors.New("it hasn't counted any")
}

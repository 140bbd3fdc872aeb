package product_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/faults"
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
	// startRequests is how many it may make when it starts, or begins anew after the API server was away.
	startRequests = 30
)

// testAPIRequests counts what agents ask of the API server in a cluster where nothing happens.
func (w *world) testAPIRequests(t *testing.T) {
	requests := w.countRequests(t)
	begin := time.Now()
	pass(t, begin, quiet)
	each := requests() / time.Since(begin).Minutes()
	record(t, 1, "nothing happens, a minute", each, mostRequests)
}

// record keeps how many requests a node's agent made while something went on, which may be so many.
func record(t *testing.T, order int, while string, each float64, most int) {
	t.Helper()
	if each > float64(most) {
		t.Errorf("while %s each agent made %.1f requests to the API server, want at most %d", while, each, most)
	}
	faults.Record(t, faults.Measurement{
		Order: order, Table: faults.Figures, Fault: while, Lane: faults.Cluster, Allowed: fmt.Sprint(most), Note: fmt.Sprintf("%.1f", each),
	})
}

// countRequests counts what agents ask of the API server: the function that it returns tells how many requests they have made
// since, for each node, and ends the counting.
func (w *world) countRequests(t *testing.T) (each func() float64) {
	t.Helper()
	if _, err := w.KubectlApply(t.Context(), flowSchema); err != nil {
		t.Fatal(err)
	}
	remove := sync.OnceValue(func() error {
		_, err := w.Kubectl(context.Background(), "delete", "flowschema", "weaveguard-counted")
		return err
	})
	t.Cleanup(func() { _ = remove() })
	var first int
	w.eventually(t, "the API server counts the agents' requests", func(ctx context.Context) (err error) {
		first, err = w.agentRequests(ctx)
		return err
	})
	return func() float64 {
		t.Helper()
		last, err := w.agentRequests(t.Context())
		if err := errors.Join(err, remove()); err != nil {
			t.Fatal(err)
		}
		return float64(last-first) / float64(len(w.nodes))
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

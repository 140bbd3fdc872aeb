package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/kube"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// A Node's annotations are what somebody wrote: one that can't be used is named, and the Node counts without it.
func TestBadAnnotations(t *testing.T) {
	t.Parallel()
	good := strings.Repeat("A", 42) + "E="
	for name, tc := range map[string]struct {
		node     kube.Node
		problems []string
	}{
		"none":              {kube.Node{Name: "a"}, nil},
		"both good":         {kube.Node{Name: "a", Identity: good, Endpoint: "192.0.2.1"}, nil},
		"not base64":        {kube.Node{Name: "a", Identity: "?"}, []string{contract.AnnotationIdentity}},
		"not 32 bytes":      {kube.Node{Name: "a", Identity: "AAAA"}, []string{contract.AnnotationIdentity}},
		"not an address":    {kube.Node{Name: "a", Endpoint: "example.com"}, []string{contract.AnnotationEndpoint}},
		"neither can be":    {kube.Node{Name: "a", Identity: "?", Endpoint: "?"}, []string{contract.AnnotationIdentity, contract.AnnotationEndpoint}},
		"an address, a bad": {kube.Node{Name: "a", Identity: "?", Endpoint: "192.0.2.1"}, []string{contract.AnnotationIdentity}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			node, problems := clusterNode(tc.node)
			if len(problems) != len(tc.problems) {
				t.Fatalf("problems are %v, want %d", problems, len(tc.problems))
			}
			for i, p := range problems {
				if p.Subject != "node a" || !strings.Contains(p.Message, tc.problems[i]) || p.Remedy == "" {
					t.Errorf("problem %d is %+v, want one about %s with a remedy", i, p, tc.problems[i])
				}
			}
			if usable := tc.node.Identity == good; usable == node.Identity.IsZero() {
				t.Errorf("the identity is %v", node.Identity)
			}
		})
	}
}

// What the start waits for is in the status at once, and in the log when it stays; once for each cause.
func TestAwait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := &board{node: "a", started: time.Now(), log: slog.New(slog.NewTextHandler(&log, nil))}
		soon, stays := errors.New("soon over"), errors.New("stays")
		failures := []error{soon, soon, soon, stays, stays, stays, stays, stays, errors.New("new"), nil}
		try := 0
		err := b.await(t.Context(), "thing", func(context.Context) error {
			if try > 0 {
				s := b.status(func() []view.Problem { return nil })
				if want := "thing: " + failures[try-1].Error(); s.Ready || len(s.Problems) != 1 || s.Problems[0].String() != want {
					t.Errorf("while it waits the status says %v, want %q", s.Problems, want)
				}
			}
			try++
			return failures[try-1]
		})
		if err != nil || try != len(failures) {
			t.Errorf("ended after %d tries: %v", try, err)
		}
		if text := log.String(); strings.Count(text, "\n") != 1 || !strings.Contains(text, "error=stays") {
			t.Errorf("want the log to have only what stayed, once:\n%s", text)
		}
	})
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		b := &board{log: slog.New(slog.DiscardHandler)}
		cause := errors.New("never")
		if err := b.await(ctx, "thing", func(context.Context) error { return cause }); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ended with %v", err)
		}
	})
}

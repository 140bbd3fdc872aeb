package kube_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

// tokenServer is an API server that knows one token at a time, and one Node.
type tokenServer struct {
	token   atomic.Value // string
	patches atomic.Int64
	node    *corev1.Node
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	answer := func(code int, object runtime.Object) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(object)
	}
	failure := func(code int, reason metav1.StatusReason) {
		answer(code, &metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: int32(code),
			Reason: reason, Message: string(reason),
		})
	}
	q := r.URL.Query()
	switch {
	case r.Header.Get("Authorization") != "Bearer "+s.token.Load().(string):
		failure(http.StatusUnauthorized, metav1.StatusReasonUnauthorized)
	case q.Get("sendInitialEvents") != "":
		failure(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid)
	case q.Get("watch") != "":
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	case r.Method == http.MethodPatch:
		s.patches.Add(1)
		answer(http.StatusOK, s.node)
	case strings.HasSuffix(r.URL.Path, "/nodes"):
		answer(http.StatusOK, &corev1.NodeList{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "NodeList"}, ListMeta: metav1.ListMeta{ResourceVersion: "1"},
			Items: []corev1.Node{*s.node},
		})
	default:
		answer(http.StatusOK, &metav1.PartialObjectMetadataList{
			TypeMeta: metav1.TypeMeta{APIVersion: "meta.k8s.io/v1", Kind: "PartialObjectMetadataList"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"},
		})
	}
}

// A token that isn't valid any more, as after a Node was deleted and made again: status says what to do, and the agent
// goes on by itself once the kubelet has put another one into the file.
func TestRevokedToken(t *testing.T) {
	fake := &tokenServer{node: testNode("n1", "10.32.1.0/24")}
	fake.token.Store("the-first-token")
	server := httptest.NewTLSServer(fake) // tokens go over TLS alone
	t.Cleanup(func() {                    // after the agent's end: Close waits for what an agent that runs would ask anew
		server.CloseClientConnections()
		server.Close()
	})
	dir := t.TempDir()
	tokenFile, path := filepath.Join(dir, "token"), filepath.Join(dir, "kubeconfig")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil { // at once, as the kubelet does
			t.Fatal(err)
		}
	}
	write(tokenFile, "the-first-token")
	write(path, strings.NewReplacer("SERVER", server.URL, "TOKEN", tokenFile).Replace(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "SERVER", insecure-skip-tls-verify: true}}]
users: [{name: u, user: {tokenFile: "TOKEN"}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`))
	client, metadata, err := kube.Clients(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	log := &logBuffer{}
	k := kube.New(kube.Config{Client: client, Metadata: metadata, Node: "n1", Namespace: "kube-system",
		Log: slog.New(slog.NewTextHandler(log, nil))})
	done := make(chan error, 1)
	go func() { done <- k.Run(t.Context()) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually := func(what string, check func(kube.Snapshot) bool) {
		t.Helper()
		deadline := time.Now().Add(30 * time.Second)
		for !check(k.Snapshot()) {
			if time.Now().After(deadline) {
				t.Fatalf("not within 30 s: %s; problems are %v", what, k.Snapshot().Problems)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	eventually("it is in sync", func(s kube.Snapshot) bool { return s.Synced && s.Reachable })

	fake.token.Store("the-second-token")
	k.Report(kube.Own{PublicKey: keys.PublicKey{1}, KeyGeneration: 1})
	eventually("it says that its token isn't accepted", func(s kube.Snapshot) bool {
		return len(s.Problems) == 1 && strings.Contains(s.Problems[0].Message, "doesn't accept this agent's token") &&
			strings.Contains(s.Problems[0].Remedy, "delete the pod") && s.Synced && len(s.Nodes) == 1
	})
	for _, secret := range []string{"the-first-token", "the-second-token"} {
		if text := k.Snapshot().Problems[0].String(); strings.Contains(text, secret) {
			t.Errorf("the token is in the problem %q", text)
		}
	}
	if fake.patches.Load() != 0 {
		t.Error("a patch with the old token was taken")
	}
	write(tokenFile, "the-second-token")
	began := time.Now()
	eventually("it goes on with the new token", func(s kube.Snapshot) bool {
		return s.Reachable && len(s.Problems) == 0 && fake.patches.Load() > 0
	})
	t.Logf("it went on %.1f s after the new token was there", time.Since(began).Seconds())
}

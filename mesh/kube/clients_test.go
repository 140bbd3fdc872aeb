package kube_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"

	"github.com/weaveguard/weaveguard/mesh/kube"
)

func TestClientsOfAKubeconfig(t *testing.T) {
	requests := make(chan *http.Request, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		w.WriteHeader(http.StatusForbidden)
	}))
	defer server.Close()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := strings.ReplaceAll(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "SERVER"}}]
contexts: [{name: c, context: {cluster: c}}]
current-context: c
`, "SERVER", server.URL)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	client, metadata, err := kube.Clients(path, "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("no error")
	}
	if _, err := metadata.Resource(policiesResource).List(t.Context(), metav1.ListOptions{}); err == nil {
		t.Error("no error")
	}
	for _, want := range []struct{ path, accept string }{
		{"/api/v1/nodes", "application/vnd.kubernetes.protobuf,"},
		{"/apis/networking.k8s.io/v1/networkpolicies", "as=PartialObjectMetadataList"},
	} {
		r := <-requests
		if r.URL.Path != want.path || r.UserAgent() != "weaveguard-agent/v1.2.3" || !strings.Contains(r.Header.Get("Accept"), want.accept) {
			t.Errorf("%s by %q, accepts %q; want %s and %q", r.URL.Path, r.UserAgent(), r.Header.Get("Accept"), want.path, want.accept)
		}
	}
}

func TestClientsErrors(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for path, want := range map[string]string{
		"":              "outside of a pod, name a kubeconfig file",
		"/nowhere/else": "/nowhere/else",
	} {
		if _, _, err := kube.Clients(path, ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("kubeconfig %q: error %v lacks %q", path, err, want)
		}
	}
}

// What client-go says in its own log is for developers, and it repeats itself.
func TestRoutedLogsAreQuiet(t *testing.T) {
	defer klog.ClearLogger()
	synctest.Test(t, func(t *testing.T) {
		log := &logBuffer{}
		kube.RouteLogs(slog.New(slog.NewTextHandler(log, nil)))
		for range 180 {
			klog.Background().Error(errors.New("some"), "it failed")
			klog.InfoS("look at me")
			klog.V(2).InfoS("and me")
			time.Sleep(time.Second)
		}
		got := log.take()
		if len(got) != 3 {
			t.Fatalf("%d lines in three minutes:\n%s", len(got), strings.Join(got, "\n"))
		}
		if !strings.Contains(got[0], "level=WARN") || !strings.Contains(got[0], "it failed") {
			t.Errorf("line: %s", got[0])
		}
	})
}

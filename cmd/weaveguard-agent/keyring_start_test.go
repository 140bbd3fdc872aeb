package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	metadatafake "k8s.io/client-go/metadata/fake"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/keys/keystest"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

// An agent starts with the Secret's keyring also where that can't be written down for the next start, says so, and writes it
// when that is possible. What is on disk as it should be isn't written.
func TestKeyringThatCannotBeKept(t *testing.T) {
	t.Parallel()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "weaveguard", Name: kube.SecretName},
		Data: map[string][]byte{kube.SecretKey: keystest.Ring("a").Text()}}
	metadata := metadatafake.NewSimpleMetadataClient(metadatafake.NewTestScheme())
	dir := filepath.Join(t.TempDir(), "state") // isn't there, so nothing can be written in it
	start := func() *starter {
		t.Helper()
		s := &starter{options: options{StateDir: dir}, board: &board{log: slog.New(slog.DiscardHandler)}}
		s.kube = kube.New(kube.Config{Client: fake.NewClientset(secret), Metadata: metadata, Node: "a", Namespace: "weaveguard", Log: s.log, Changed: func() {}})
		if err := s.findKeyring(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := keystest.Letters(s.ring.Ring()); got != "a" {
			t.Errorf("it starts with the keyring %s", got)
		}
		s.followKeyringOf(keyringSecret{s.kube}, func(keys.Keyring) error { return nil }, func() {})
		return s
	}
	s := start()
	problems := s.keyring.problems()
	if len(problems) != 1 || !strings.Contains(problems[0].Message, "next start") || problems[0].Remedy == "" {
		t.Errorf("problems %v, want one about the copy for the next start", problems)
	}
	path := filepath.Join(dir, "keyring")
	for _, again := range []string{"once the directory is there", "after somebody removed the file"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		s.keyring.follow(t.Context())
		if kept, err := keys.LoadKeyring(path); err != nil || keystest.Letters(kept) != "a" || len(s.keyring.problems()) > 0 {
			t.Errorf("%s: %v, %v, problems %v", again, kept, err, s.keyring.problems())
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	s.keyring.follow(t.Context())
	long := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(path, long, long); err != nil {
		t.Fatal(err)
	}
	if again := start(); len(again.keyring.problems()) > 0 {
		t.Errorf("problems %v", again.keyring.problems())
	}
	if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(long) {
		t.Errorf("the same keyring was written again: %v, %v", info, err)
	}
}

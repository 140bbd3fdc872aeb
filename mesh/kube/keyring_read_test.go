package kube_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/weaveguard/weaveguard/keys/keystest"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

// An agent that starts puts the keyring that its node had into an empty Secret, and nothing into a full one.
func TestKeyringIsPutBack(t *testing.T) {
	had := keystest.Ring("ab")
	api := newAPI(t, testSecret(nil))
	log := &logBuffer{}
	k := kube.New(api.config(agentNode, log, nil))
	for range 2 {
		if got, err := k.Keyring(t.Context(), had); err != nil || !got.Equal(had) {
			t.Fatalf("got %v, %v", got, err)
		}
	}
	if got, err := k.Keyring(t.Context(), keystest.Ring("x")); err != nil || !got.Equal(had) {
		t.Errorf("with another keyring before: %v, %v", got.Fingerprints(), err)
	}
	object, err := api.client.Tracker().Get(secretsResource, "kube-system", "weaveguard-gossip")
	if err != nil {
		t.Fatal(err)
	}
	if got := object.(*corev1.Secret).Data["keyring"]; !bytes.Equal(got, had.Text()) {
		t.Error("the Secret holds another keyring than the one that the node had")
	}
	if strings.Contains(fmt.Sprint(log), base64.StdEncoding.EncodeToString(had[0])) {
		t.Error("the log gives a key away")
	}
}

// A running agent reads the Secret and never fills it. What is wrong with it is told with a remedy, and without a key.
func TestReadKeyring(t *testing.T) {
	secret := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("secretly"), 4))
	for _, tt := range []struct {
		name    string
		secret  *corev1.Secret
		message string
	}{
		{"deleted", nil, "kube-system/weaveguard-gossip doesn't exist"},
		{"emptied", testSecret(nil), "is empty"},
		{"another name", testSecret(map[string]string{"key": secret}), `nothing under "keyring"`},
		{"a blank value", testSecret(map[string]string{"keyring": "\n"}), "no gossip key"},
		{"cut off", testSecret(map[string]string{"keyring": secret[:20]}), "line 1"},
		{"good", testSecret(map[string]string{"keyring": secret}), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api := newAPI(t)
			if tt.secret != nil {
				api.add(t, tt.secret)
			}
			k := kube.New(api.config(agentNode, &logBuffer{}, nil))
			ring, err := k.ReadKeyring(t.Context())
			if tt.message == "" {
				if err != nil || len(ring) != 1 {
					t.Errorf("%v, %v", ring, err)
				}
				return
			}
			var explained *kube.KeyringError
			if !errors.As(err, &explained) || explained.Remedy == "" || !strings.Contains(explained.Message, tt.message) {
				t.Errorf("error %v, want one with %q and a remedy", err, tt.message)
			}
			if strings.Contains(fmt.Sprint(err), secret[:12]) {
				t.Errorf("the error gives the secret away: %v", err)
			}
			if containsAction(api.client.Actions(), "update", "secrets") {
				t.Error("the Secret was written")
			}
			if problems := k.Snapshot().Problems; len(problems) != 0 {
				t.Errorf("the Secret's fault is told twice: %v", problems)
			}
		})
	}
}

// That the API server is away says nothing of the Secret.
func TestReadKeyringOfSilentServer(t *testing.T) {
	api := newAPI(t, testSecret(nil))
	k := kube.New(api.config(agentNode, &logBuffer{}, nil))
	api.fail(refused)
	if _, err := k.ReadKeyring(t.Context()); !errors.Is(err, kube.ErrNotRead) {
		t.Errorf("error %v", err)
	}
	if problems := k.Snapshot().Problems; len(problems) != 1 || !strings.Contains(problems[0].Message, "doesn't answer") {
		t.Errorf("problems %v", problems)
	}
	api.fail(nil)
	if _, err := k.ReadKeyring(t.Context()); errors.Is(err, kube.ErrNotRead) {
		t.Errorf("error %v", err)
	}
	if problems := k.Snapshot().Problems; len(problems) != 0 {
		t.Errorf("problems stay: %v", problems)
	}
}

// All agents of a big cluster together don't ask too often.
func TestKeyringInterval(t *testing.T) {
	k := kube.New(newAPI(t).config(agentNode, &logBuffer{}, nil))
	if got := k.KeyringInterval(); got != 10*time.Second {
		t.Errorf("%s in a small cluster", got)
	}
}

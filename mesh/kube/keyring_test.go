package kube_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ktesting "k8s.io/client-go/testing"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/kube"
)

func testSecret(data map[string]string) *corev1.Secret {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
		Namespace: "kube-system", Name: "weaveguard-gossip", Labels: map[string]string{"a": "label"},
	}}
	for key, value := range data {
		if secret.Data == nil {
			secret.Data = map[string][]byte{}
		}
		secret.Data[key] = []byte(value)
	}
	return secret
}

// Twenty agents that start at once all get the key that the fastest of them put.
func TestKeyringOfManyAgents(t *testing.T) {
	api := newAPI(t, testSecret(nil))
	const agents = 20
	// All of them see the Secret empty before any of them has put a key.
	empty, reads := testSecret(nil), 0
	empty.ResourceVersion = "1"
	api.client.PrependReactor("get", "secrets", func(ktesting.Action) (bool, runtime.Object, error) {
		reads++ // the fake calls one reactor at a time
		return reads <= agents, empty.DeepCopy(), nil
	})
	keyrings := make([]keys.Keyring, agents)
	var running sync.WaitGroup
	for i := range agents {
		running.Go(func() {
			var err error
			if keyrings[i], err = kube.New(api.config(agentNode, &logBuffer{}, nil)).Keyring(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	for i, keyring := range keyrings {
		if len(keyring) != 1 || len(keyring[0]) != keys.GossipKeySize || !bytes.Equal(keyring[0], keyrings[0][0]) {
			t.Fatalf("agent %d has %d keys, or another key than agent 0", i, len(keyring))
		}
	}
	if reads != 2*agents-1 {
		t.Errorf("%d reads: all but the fastest agent should have read again", reads)
	}
	object, err := api.client.Tracker().Get(secretsResource, "kube-system", "weaveguard-gossip")
	if err != nil {
		t.Fatal(err)
	}
	stored := object.(*corev1.Secret)
	if want := base64.StdEncoding.EncodeToString(keyrings[0][0]) + "\n"; string(stored.Data["keyring"]) != want || stored.Labels["a"] != "label" {
		t.Errorf("the Secret holds other keys than the agents have, or lost its labels: %v", stored.ObjectMeta)
	}
}

func TestKeyringOfSeveralKeys(t *testing.T) {
	key := func(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }
	text := base64.StdEncoding.EncodeToString(key(7)) + "\r\n\n  " + base64.StdEncoding.EncodeToString(key(3))
	api := newAPI(t, testSecret(map[string]string{"keyring": text}))
	got, err := kube.New(api.config(agentNode, &logBuffer{}, nil)).Keyring(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || !bytes.Equal(got[0], key(7)) || !bytes.Equal(got[1], key(3)) {
		t.Errorf("keyring: %v", got)
	}
	if containsAction(api.client.Actions(), "update", "secrets") {
		t.Error("a full Secret was written")
	}
}

func TestKeyringErrors(t *testing.T) {
	short := base64.StdEncoding.EncodeToString([]byte("secretly short"))
	for _, tt := range []struct {
		name   string
		secret *corev1.Secret
		want   []string
	}{
		{"no Secret", nil, []string{"kube-system/weaveguard-gossip doesn't exist", "apply Weaveguard's manifest"}},
		{"other data", testSecret(map[string]string{"key": "x"}), []string{`nothing under "keyring"`, "delete the Secret"}},
		{"empty", testSecret(map[string]string{"keyring": "\n"}), []string{"no gossip key", "delete the Secret"}},
		{"short", testSecret(map[string]string{"keyring": "\n" + short}), []string{"line 2", "32 bytes"}},
		{"not base64", testSecret(map[string]string{"keyring": "secretly?"}), []string{"line 1", "base64"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api := newAPI(t)
			if tt.secret != nil {
				api.add(t, tt.secret)
			}
			_, err := kube.New(api.config(agentNode, &logBuffer{}, nil)).Keyring(t.Context(), nil)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), short) || strings.Contains(err.Error(), "secretly") {
				t.Errorf("the error gives the secret away: %v", err)
			}
		})
	}
}

// An API server that doesn't answer in time is an error, and no keyring without keys.
func TestKeyringOfSilentServer(t *testing.T) {
	api := newAPI(t)
	api.client.PrependReactor("get", "secrets", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, nil, fmt.Errorf("asking: %w", context.DeadlineExceeded)
	})
	ring, err := kube.New(api.config(agentNode, &logBuffer{}, nil)).Keyring(t.Context(), nil)
	if !errors.Is(err, context.DeadlineExceeded) || len(ring) != 0 {
		t.Errorf("got %v, %v", ring, err)
	}
}

func TestPodSubnet(t *testing.T) {
	config := func(text string) *corev1.ConfigMap {
		return &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "kubeadm-config"},
			Data:       map[string]string{"ClusterConfiguration": text},
		}
	}
	head := "apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\nnetworking:\n  dnsDomain: cluster.local\n"
	for _, tt := range []struct {
		name      string
		configMap *corev1.ConfigMap
		err       error
		want      []string
		wantErr   string
	}{
		{name: "no kubeadm"},
		{name: "forbidden", err: apierrors.NewForbidden(corev1.Resource("configmaps"), "kubeadm-config", errors.New("no"))},
		{name: "away", err: refused, wantErr: "connection refused"},
		{name: "without", configMap: config(head)},
		{name: "one", configMap: config(head + "  podSubnet: 10.32.0.0/12\n"), want: []string{"10.32.0.0/12"}},
		{name: "two", configMap: config(head + "  podSubnet: fd00::/56, 10.32.7.0/12"), want: []string{"fd00::/56", "10.32.0.0/12"}},
		{name: "bad subnet", configMap: config(head + "  podSubnet: ten"), wantErr: `kube-system/kubeadm-config: networking.podSubnet: "ten"`},
		{name: "IPv4 in IPv6", configMap: config(head + "  podSubnet: ::ffff:10.32.0.0/108"), wantErr: "write it as IPv4"},
		{name: "all", configMap: config(head + "  podSubnet: fd00::/56,0.0.0.0/0"), wantErr: `"0.0.0.0/0"`},
		{name: "two of a family", configMap: config(head + "  podSubnet: 10.32.0.0/12,10.64.0.0/12"), wantErr: `"10.64.0.0/12"`},
		{name: "not YAML", configMap: config("\t{"), wantErr: "ClusterConfiguration"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api := newAPI(t)
			if tt.configMap != nil {
				api.add(t, tt.configMap)
			}
			api.fail(tt.err)
			got, err := kube.New(api.config(agentNode, &logBuffer{}, nil)).PodSubnet(t.Context())
			if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
				t.Fatalf("error %v, want %q", err, tt.wantErr)
			}
			var texts []string
			for _, subnet := range got {
				texts = append(texts, subnet.String())
			}
			if strings.Join(texts, " ") != strings.Join(tt.want, " ") {
				t.Errorf("got %v, want %v", texts, tt.want)
			}
		})
	}
}

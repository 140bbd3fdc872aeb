package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/weaveguard/weaveguard/keys"
)

const (
	// SecretName is the Secret with the gossip keyring, and SecretKey the name of the keyring in it.
	SecretName = "weaveguard-gossip"
	SecretKey  = "keyring"
)

// Keyring reads the gossip keyring from its Secret, whose value is what keys.ParseKeyring reads. In a Secret without
// data, the first agent puts a new key, by compare and swap; so all agents get the same one, whenever they start.
func (k *Kube) Keyring(ctx context.Context) (keys.Keyring, error) {
	name := k.config.Namespace + "/" + SecretName
	var ring keys.Keyring
	var last error // RetryOnConflict takes a context's end for its own, and returns no error then
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		ring, last = k.readOrFill(ctx, name)
		return last
	})
	if err == nil {
		err = last
	}
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("the Secret %s doesn't exist: apply Weaveguard's manifest, which makes it "+
			"(without a key: the first agent puts one)", name)
	case err != nil:
		return nil, fmt.Errorf("reading the gossip keyring from the Secret %s: %w", name, err)
	}
	return ring, nil
}

// readOrFill is one try at the Secret.
func (k *Kube) readOrFill(ctx context.Context, name string) (keys.Keyring, error) {
	secrets := k.config.Client.CoreV1().Secrets(k.config.Namespace)
	secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if len(secret.Data) == 0 {
		if err := fill(secret); err != nil {
			return nil, err
		}
		// The resource version in it makes this fail when somebody else was faster.
		if secret, err = secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			return nil, err
		}
		k.config.Log.Info("made the gossip keyring of this cluster", "secret", name)
	}
	return parse(secret)
}

func fill(secret *corev1.Secret) error {
	ring, err := keys.NewKeyring()
	if err != nil {
		return err
	}
	secret.Data = map[string][]byte{SecretKey: ring.Text()}
	return nil
}

// parse reads the Secret's value. Nothing of it is in an error.
func parse(secret *corev1.Secret) (keys.Keyring, error) {
	value, ok := secret.Data[SecretKey]
	if !ok {
		return nil, fmt.Errorf("it has other data, but nothing under %q: put the keyring there, or delete the "+
			"Secret and apply the manifest again", SecretKey)
	}
	ring, err := keys.ParseKeyring(value)
	if err != nil {
		return nil, fmt.Errorf("its %q: %w; put keys there as `head -c %d /dev/urandom | base64` makes them, or "+
			"delete the Secret and apply the manifest again, then the agents make a new one", SecretKey, err, keys.GossipKeySize)
	}
	return ring, nil
}

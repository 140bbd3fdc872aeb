package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
)

const (
	// SecretName is the Secret with the gossip keyring, and SecretKey the name of the keyring in it.
	SecretName = "weaveguard-gossip"
	SecretKey  = "keyring"

	// KeySize is the length in bytes of a gossip key (AES-256).
	KeySize = 32
)

// Keyring reads the gossip keyring from its Secret: keys of KeySize bytes, the first is the one to encrypt with. The
// Secret's value is one key a line, in standard base64. In a Secret without data, the first agent puts a new key, by
// compare and swap; so all agents get the same one, whenever they start.
func (k *Kube) Keyring(ctx context.Context) ([][]byte, error) {
	secrets := k.config.Client.CoreV1().Secrets(k.config.Namespace)
	name := k.config.Namespace + "/" + SecretName
	var keyring [][]byte
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if len(secret.Data) == 0 {
			if err := fill(secret); err != nil {
				return err
			}
			// The resource version in it makes this fail when somebody else was faster.
			if secret, err = secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
				return err
			}
			k.config.Log.Info("made the gossip keyring of this cluster", "secret", name)
		}
		keyring, err = parseKeyring(secret)
		return err
	})
	switch {
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("the Secret %s doesn't exist: apply Weaveguard's manifest, which makes it "+
			"(without a key: the first agent puts one)", name)
	case err != nil:
		return nil, fmt.Errorf("reading the gossip keyring from the Secret %s: %w", name, err)
	}
	return keyring, nil
}

func fill(secret *corev1.Secret) error {
	key := make([]byte, KeySize)
	if _, err := rand.Read(key); err != nil {
		return fmt.Errorf("making a gossip key: %w", err)
	}
	secret.Data = map[string][]byte{SecretKey: []byte(base64.StdEncoding.EncodeToString(key) + "\n")}
	return nil
}

// parseKeyring reads the Secret's value. Nothing of it is in an error.
func parseKeyring(secret *corev1.Secret) ([][]byte, error) {
	value, ok := secret.Data[SecretKey]
	if !ok {
		return nil, fmt.Errorf("it has other data, but nothing under %q: put the keyring there, or delete the "+
			"Secret and apply the manifest again", SecretKey)
	}
	var keyring [][]byte
	number := 0
	for line := range bytes.Lines(value) {
		number++
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			continue
		}
		key, err := base64.StdEncoding.DecodeString(string(line))
		if err != nil || len(key) != KeySize {
			return nil, fmt.Errorf("line %d of %q must be %d bytes in standard base64, as `head -c %d /dev/urandom | "+
				"base64` makes them", number, SecretKey, KeySize, KeySize)
		}
		keyring = append(keyring, key)
	}
	if len(keyring) == 0 {
		return nil, errors.New("the value of \"" + SecretKey + "\" is empty: put a key there, or remove it, then the " +
			"first agent puts one")
	}
	return keyring, nil
}

package kube

import (
	"context"
	"errors"
	"fmt"
	"time"

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

const (
	// keyringTimeout bounds one reading of the Secret.
	keyringTimeout = 5 * time.Second
	// keyringInterval is how often a running agent reads the Secret, and keyringPerNode makes that slower in a big
	// cluster: all agents together ask ten times a second at most. A watch would tell sooner, but nothing here needs
	// that: what counts is that all agents know a key before it is used. And it would need more rights (list and watch),
	// and a cache with secrets in it.
	keyringInterval = 10 * time.Second
	keyringPerNode  = 100 * time.Millisecond
)

// KeyringError says what is wrong with the Secret, and what to do about it. Nothing of its value is in it.
type KeyringError struct {
	Message string
	Remedy  string
	Err     error // of the API server or the parser, if there is one
}

func (e *KeyringError) Error() string { return e.Message + ": " + e.Remedy }

func (e *KeyringError) Unwrap() error { return e.Err }

// Keyring reads the gossip keyring from its Secret, whose value is what keys.ParseKeyring reads, for an agent that
// starts. Into a Secret without data it puts the keyring that this node had, or without one a new key, by compare and
// swap; so all agents get the same one, whenever they start.
func (k *Kube) Keyring(ctx context.Context, had keys.Keyring) (keys.Keyring, error) {
	var ring keys.Keyring
	var last error // RetryOnConflict takes a context's end for its own, and returns no error then
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		ring, last = k.readOrFill(ctx, had)
		return last
	})
	if err == nil {
		err = last
	}
	if err != nil {
		return nil, k.keyringError(err)
	}
	return ring, nil
}

// ErrNotRead is what ReadKeyring returns when the API server doesn't answer, or may not: what the Secret has isn't
// known then. The Snapshot has a problem that says so.
var ErrNotRead = errors.New("the Secret can't be read now")

// ReadKeyring reads the Secret for an agent that has a keyring, and never writes. What is wrong with the Secret is a
// *KeyringError.
func (k *Kube) ReadKeyring(ctx context.Context) (keys.Keyring, error) {
	asking, cancel := context.WithTimeoutCause(ctx, keyringTimeout, errors.New("no answer in time"))
	defer cancel()
	secret, err := k.config.Client.CoreV1().Secrets(k.config.Namespace).Get(asking, SecretName, metav1.GetOptions{})
	if ctx.Err() != nil {
		return nil, ErrNotRead // the agent ends
	}
	if err != nil && !apierrors.IsNotFound(err) {
		k.contact.note(readingKeyring, err)
		return nil, fmt.Errorf("%w: %w", ErrNotRead, err)
	}
	k.contact.note(readingKeyring, nil)
	if err != nil {
		return nil, k.keyringError(err)
	}
	if len(secret.Data) == 0 {
		return nil, &KeyringError{
			Message: fmt.Sprintf("the Secret %s is empty", k.secret()),
			Remedy:  "restart the agent of a node with a good keyring, or all of them: " + k.restart() + "; it puts its keyring back",
		}
	}
	return k.parse(secret)
}

// KeyringInterval is the time between two calls of ReadKeyring that a running agent should keep.
func (k *Kube) KeyringInterval() time.Duration {
	return max(keyringInterval, time.Duration(len(k.nodes.GetStore().ListKeys()))*keyringPerNode)
}

// ForeignKeyring is the error of a Secret that has none of the keys in use.
func (k *Kube) ForeignKeyring() error {
	return &KeyringError{
		Message: fmt.Sprintf("the Secret %s was replaced: none of its keys is one that is in use", k.secret()),
		Remedy: "if only this node says so, it missed a change of the key: restart its agent; else put a key in use back, from a " +
			"backup or from the file keyring in a node's /var/lib/weaveguard; or, if the new keys are meant, restart all agents, " +
			"which don't hear each other until all have: " + k.restart(),
	}
}

func (k *Kube) secret() string { return k.config.Namespace + "/" + SecretName }

func (k *Kube) restart() string {
	return fmt.Sprintf("`kubectl -n %s rollout restart daemonset/weaveguard`", k.config.Namespace)
}

// keyringError explains why the Secret wasn't read or filled.
func (k *Kube) keyringError(err error) error {
	var explained *KeyringError
	switch {
	case errors.As(err, &explained):
		return err
	case apierrors.IsNotFound(err):
		return &KeyringError{
			Message: fmt.Sprintf("the Secret %s doesn't exist", k.secret()),
			Remedy: "apply Weaveguard's manifest, which makes it without a key; an agent that starts then puts the keyring that its " +
				"node has, or a new one",
			Err: err,
		}
	}
	return fmt.Errorf("reading the gossip keyring from the Secret %s: %w", k.secret(), err)
}

// readOrFill is one try at the Secret.
func (k *Kube) readOrFill(ctx context.Context, had keys.Keyring) (keys.Keyring, error) {
	secrets := k.config.Client.CoreV1().Secrets(k.config.Namespace)
	secret, err := secrets.Get(ctx, SecretName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	if len(secret.Data) == 0 {
		if err := fill(secret, had); err != nil {
			return nil, err
		}
		// The resource version in it makes this fail when somebody else was faster.
		if secret, err = secrets.Update(ctx, secret, metav1.UpdateOptions{}); err != nil {
			return nil, err
		}
		if len(had) > 0 {
			k.config.Log.Warn("the Secret was empty: put the gossip keyring back that this node had", "secret", k.secret(),
				"keys", had.Fingerprints())
		} else {
			k.config.Log.Info("made the gossip keyring of this cluster", "secret", k.secret())
		}
	}
	return k.parse(secret)
}

func fill(secret *corev1.Secret, ring keys.Keyring) error {
	if len(ring) == 0 {
		made, err := keys.NewKeyring()
		if err != nil {
			return err
		}
		ring = made
	}
	secret.Data = map[string][]byte{SecretKey: ring.Text()}
	return nil
}

// parse reads the Secret's value. Nothing of it is in an error.
func (k *Kube) parse(secret *corev1.Secret) (keys.Keyring, error) {
	value, ok := secret.Data[SecretKey]
	if !ok {
		return nil, &KeyringError{
			Message: fmt.Sprintf("the Secret %s has other data, but nothing under %q", k.secret(), SecretKey),
			Remedy: "put the keyring there; or delete the Secret and apply the manifest again, and an agent that starts then puts " +
				"the keyring that its node has, or a new one",
		}
	}
	ring, err := keys.ParseKeyring(value)
	if err != nil {
		return nil, &KeyringError{
			Message: fmt.Sprintf("the %q of the Secret %s can't be used: %v", SecretKey, k.secret(), err),
			Remedy: "put the keys in use there, one a line, each 32 bytes in base64; or delete the Secret and apply the manifest " +
				"again, and an agent that starts then puts the keyring that its node has, or a new one",
			Err: err,
		}
	}
	return ring, nil
}

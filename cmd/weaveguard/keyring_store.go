package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/weaveguard/weaveguard/keys"
)

// The Secret with the keyring, as the manifest and the agents have it.
const (
	secretName = "weaveguard-gossip"
	secretKey  = "keyring"
)

// ringFile is a keyring in a file of a host without Kubernetes.
type ringFile struct {
	path string
	text []byte // as loaded; nil: there was no file
}

func (f *ringFile) load(context.Context) (keys.Keyring, error) {
	ring, text, err := f.read()
	f.text = text
	return ring, err
}

func (f *ringFile) read() (keys.Keyring, []byte, error) {
	text, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(bytes.TrimSpace(text)) == 0:
		return nil, text, nil
	case err != nil:
		return nil, nil, fmt.Errorf("reading the gossip keyring: %w", err)
	}
	ring, err := keys.ParseKeyring(text)
	if err != nil {
		return nil, nil, fmt.Errorf("the gossip keyring %s: %w", f.path, err)
	}
	return ring, text, nil
}

func (f *ringFile) save(_ context.Context, ring keys.Keyring) error {
	if _, text, err := f.read(); err != nil || !bytes.Equal(text, f.text) {
		return errors.Join(errChanged, err)
	}
	path, err := filepath.EvalSymlinks(f.path) // the file is replaced, not the link to it
	if err != nil {
		path = f.path
	}
	return ring.Save(path)
}

// ringSecret is a keyring in a Secret of a cluster.
type ringSecret struct {
	kubectl
	version string // resource version, as loaded
}

func (s *ringSecret) name() string { return s.namespace + "/" + secretName }

func (s *ringSecret) load(ctx context.Context) (keys.Keyring, error) {
	out, err := s.run(ctx, nil, "get", "secret", secretName, "--ignore-not-found", "--output", "json")
	if err != nil {
		return nil, fmt.Errorf("reading the Secret %s: %w", s.name(), err)
	}
	if len(bytes.TrimSpace(out)) == 0 {
		return nil, &adviceError{fmt.Sprintf("there is no Secret %s", s.name()),
			"apply Weaveguard's manifest, which makes it; or name its namespace with --namespace"}
	}
	var typed struct {
		Metadata struct{ ResourceVersion string }
		Data     map[string][]byte
	}
	if err := json.Unmarshal(out, &typed); err != nil || typed.Metadata.ResourceVersion == "" {
		return nil, fmt.Errorf("reading the Secret %s: kubectl printed something else", s.name()) // the cause may quote it
	}
	s.version = typed.Metadata.ResourceVersion
	if len(typed.Data) == 0 {
		return nil, nil
	}
	ring, err := keys.ParseKeyring(typed.Data[secretKey])
	if err != nil {
		return nil, &adviceError{fmt.Sprintf("the %q of the Secret %s: %v", secretKey, s.name(), err),
			"put the keys that the agents have there, one a line; `weaveguard status` of a node says which, and what to do"}
	}
	return ring, nil
}

// save patches the Secret at its resource version, so that the API server refuses when there is a newer one. It doesn't
// replace it: `kubectl replace` would note the keyring in the annotation by which `kubectl apply` finds what to remove,
// and the manifest, which has no keyring, would take it away when it is applied again.
func (s *ringSecret) save(ctx context.Context, ring keys.Keyring) error {
	var patch struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Data map[string][]byte `json:"data"`
	}
	patch.Metadata.ResourceVersion = s.version
	patch.Data = map[string][]byte{secretKey: ring.Text()}
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("changing the Secret %s: it can't be encoded", s.name())
	}
	_, err = s.run(ctx, body, "patch", "secret", secretName, "--type", "merge", "--patch-file", "/dev/stdin")
	var failed *kubectlError
	if errors.As(err, &failed) && strings.Contains(failed.said, "the object has been modified") {
		return errChanged
	}
	if err != nil {
		return fmt.Errorf("changing the Secret %s: %w", s.name(), err)
	}
	return nil
}

package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weaveguard/weaveguard/cni/bridge"
	"github.com/weaveguard/weaveguard/cni/store"
)

// lockWait is how long a verb waits for other processes that change the store, or remove attachments. They need less than a
// millisecond for the first, and some milliseconds for the second; a longer wait means that one hangs.
const lockWait = 30 * time.Second

// supported are the versions of the CNI spec that configurations and results may have.
func supported() version.PluginInfo {
	return version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// Main runs the verb that the environment asks for, as the CNI spec (section 2) says: configuration on stdin, result
// on stdout. The caller prints a returned error and exits with 1. The goroutine must be locked to its thread, for the
// network namespace is the thread's.
func Main(stdout io.Writer, release string) *types.Error {
	p := &plugin{stdout: stdout}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    p.add,
		Del:    p.del,
		Check:  p.check,
		GC:     p.gc,
		Status: p.status,
	}, supported(), "weaveguard: the CNI plugin of Weaveguard "+release)
	if err != nil {
		return explain(err)
	}
	return nil
}

type plugin struct {
	stdout io.Writer
}

func (c *config) openStore() (*store.Store, error) {
	s, err := store.Open(c.DataDir)
	if err != nil {
		return nil, wrap(types.ErrIOFailure, fmt.Sprintf("network configuration, key dataDir: %s", c.DataDir), err)
	}
	return s, nil
}

// change runs f with the store's lock held.
func change(s *store.Store, f func(tx *store.Tx) error) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	tx, err := s.Lock(ctx)
	if err != nil {
		return wrap(types.ErrIOFailure, "changing the attachments of this node", err)
	}
	defer func() { err = errors.Join(err, tx.Unlock()) }()
	return f(tx)
}

func openHost() (*bridge.Host, error) {
	h, err := bridge.Open()
	if err != nil {
		return nil, wrap(CodeKernel, "reaching the kernel", err)
	}
	return h, nil
}

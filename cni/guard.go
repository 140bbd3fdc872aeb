package cni

import (
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/weaveguard/weaveguard/cni/guard"
	"github.com/weaveguard/weaveguard/cni/store"
)

// guard lets a sandbox send from its own addresses, and nothing else. With the agent there is a table for that, and no
// sandbox is attached without it. A configuration that has its own subnets needs no agent: then the agent guards the
// sandbox as soon as it runs. Before ADD returns nothing of a pod runs in its sandbox, so the elements may come last.
func (c *config) guard(a store.Attachment) error {
	port, err := guard.PortOf(a)
	if err != nil {
		return wrap(CodeKernel, "guarding the sandbox", err)
	}
	err = guard.Add(port)
	switch {
	case errors.Is(err, guard.ErrMissing) && c.alone() && a.Ranges == nil:
		return nil
	case errors.Is(err, guard.ErrMissing):
		return fail(types.ErrTryAgainLater, fmt.Sprintf("%v, so this pod could send as another; the Weaveguard agent makes "+
			"it when it starts, and again when it is lost: see `kubectl logs -n kube-system POD -c weave`", err))
	case err != nil:
		return wrap(CodeKernel, "guarding the sandbox", err)
	}
	return nil
}

// checkGuard returns a line if a sandbox can't send, or isn't kept from sending as another.
func (c *config) checkGuard(a store.Attachment) ([]string, error) {
	port, err := guard.PortOf(a)
	if err != nil {
		return nil, nil // which compare says
	}
	has, err := guard.Has(port)
	switch {
	case errors.Is(err, guard.ErrMissing) && c.alone() && a.Ranges == nil:
		return nil, nil
	case errors.Is(err, guard.ErrMissing):
		return []string{err.Error()}, nil
	case err != nil:
		return nil, err
	case !has:
		return []string{fmt.Sprintf("%s isn't in the sets of senders of the table bridge weaveguard", a.HostIfName)}, nil
	}
	return nil, nil
}

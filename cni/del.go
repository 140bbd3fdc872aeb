package cni

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/weaveguard/weaveguard/cni/store"
)

// del removes an attachment, or what is left of one. It needs neither the sandbox nor the agent, and succeeds when
// there is nothing to remove.
func (p *plugin) del(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	s, err := c.openStore()
	if err != nil {
		return err
	}
	id := store.ID{ContainerID: args.ContainerID, IfName: args.IfName}
	ctx, cancel := context.WithTimeout(context.Background(), lockWait)
	defer cancel()
	d := detacher{hold: true}
	defer d.close()
	err = s.RemoveTogether(ctx, id, d.detach)
	if errors.Is(err, store.ErrAlone) {
		err = removeAlone(s, &d, id)
	}
	if err != nil {
		return wrap(types.ErrIOFailure, fmt.Sprintf("forgetting the attachment of %s", id), err)
	}
	return nil
}

// removeAlone removes what is left of an attachment of which little is known. Like all that removes attachments, it takes the
// interface before it frees the addresses, so that no address is given again while a sandbox still has it.
func removeAlone(s *store.Store, d *detacher, id store.ID) error {
	a, err := s.Get(id)
	if err != nil {
		a = store.Attachment{ID: id}
	}
	if err := d.detachOne(a); err != nil {
		return err
	}
	return change(s, func(tx *store.Tx) error { return tx.Remove(id) })
}

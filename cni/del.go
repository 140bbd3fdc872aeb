package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"

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
		a = store.Attachment{ID: id, HostIfName: id.HostInterface()}
	}
	if err := d.detachOne(a); err != nil {
		return err
	}
	return change(s, func(tx *store.Tx) error { return tx.Remove(id) })
}

// gc removes the network's attachments that the runtime doesn't list as valid (CNI spec 1.1.0, section 2, GC). A runtime
// that gives no list at all, which libcni allows, has said nothing of what is valid: then gc only tidies the store.
func (p *plugin) gc(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	s, err := c.openStore()
	if err != nil {
		return err
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(args.StdinData, &given); err != nil {
		return wrap(types.ErrDecodingFailure, "network configuration", err)
	}
	if _, listed := given[validAttachments]; listed {
		if err := collect(s, c); err != nil {
			return err
		}
	}
	if err := change(s, (*store.Tx).Sweep); err != nil {
		return wrap(types.ErrIOFailure, "tidying the store", err)
	}
	return nil
}

// validAttachments is the key under which GC gets the list of valid attachments.
const validAttachments = "cni.dev/valid-attachments"

// collect removes the attachments of the network that the configuration doesn't list.
func collect(s *store.Store, c *config) error {
	valid := make(map[store.ID]bool, len(c.ValidAttachments))
	for _, a := range c.ValidAttachments {
		valid[store.ID{ContainerID: a.ContainerID, IfName: a.IfName}] = true
	}
	all, err := s.List()
	var errs []error
	if err != nil {
		errs = append(errs, err)
	}
	all = slices.DeleteFunc(all, func(a store.Attachment) bool { return a.Network != c.Name || valid[a.ID] })
	var d detacher
	defer d.close()
	for some := range slices.Chunk(all, store.Together) {
		failed := d.detach(some)
		err := change(s, func(tx *store.Tx) error {
			for i, a := range some {
				// One that is being attached, or attached again, while GC looks isn't stale.
				now, err := tx.Get(a.ID)
				if failed[i] == nil && err == nil && now.Created.Equal(a.Created) && !exists(a.HostInterface()) {
					failed[i] = tx.Remove(a.ID)
				}
			}
			return errors.Join(failed...)
		})
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return wrapAll(types.ErrIOFailure, "collecting attachments that are gone", errs)
	}
	return nil
}

func exists(device string) bool {
	_, err := net.InterfaceByName(device)
	return err == nil
}

// wrapAll makes one error of several, so that none hides the others.
func wrapAll(code uint, doing string, errs []error) error {
	return fail(code, doing+": "+errors.Join(errs...).Error())
}

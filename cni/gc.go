package cni

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/weaveguard/weaveguard/cni/guard"
	"github.com/weaveguard/weaveguard/cni/store"
)

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
	errs := []error{err}
	all = slices.DeleteFunc(all, func(a store.Attachment) bool { return a.Network != c.Name || valid[a.ID] })
	var d detacher
	defer d.close()
	for some := range slices.Chunk(all, store.Together) {
		failed := d.detach(some)
		err := change(s, func(tx *store.Tx) error {
			for i, a := range some {
				// One that is being attached, or attached again, while GC looks isn't stale.
				now, err := tx.Get(a.ID)
				if failed[i] == nil && err == nil && now.Created.Equal(a.Created) && !guard.PortExists(a.HostInterface()) {
					failed[i] = tx.Remove(a.ID)
				}
			}
			return nil
		})
		errs = append(append(errs, failed...), err)
	}
	if err := errors.Join(errs...); err != nil {
		return fail(types.ErrIOFailure, "collecting attachments that are gone: "+err.Error())
	}
	return nil
}

package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/weaveguard/weaveguard/cni/bridge"
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
	host, err := openHost()
	if err != nil {
		return err
	}
	defer host.Close()
	id := store.ID{ContainerID: args.ContainerID, IfName: args.IfName}
	return remove(s, host, id, func(a store.Attachment) error { return unguard(host, a) })
}

// remove takes the interface before it frees the addresses, so that no address is given again while a sandbox still has it.
func remove(s *store.Store, host *bridge.Host, id store.ID, unguard func(store.Attachment) error) error {
	var mac net.HardwareAddr
	// Of one that can't be read nobody knows the elements; the agent removes those of ports that are gone.
	if a, err := s.Get(id); err == nil {
		mac, _ = net.ParseMAC(a.MAC)
		if err := unguard(a); err != nil {
			return wrap(CodeKernel, fmt.Sprintf("removing %s from the sets of senders", id), err)
		}
	}
	if err := host.Detach(id.HostInterface(), mac); err != nil {
		return wrap(CodeKernel, fmt.Sprintf("removing the interface of %s", id), err)
	}
	err := change(s, func(tx *store.Tx) error { return tx.Remove(id) })
	if err != nil {
		return wrap(types.ErrIOFailure, "forgetting the attachment", err)
	}
	return nil
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
	host, err := openHost()
	if err != nil {
		return err
	}
	defer host.Close()
	var senders unguarder
	for _, a := range all {
		if a.Network != c.Name || valid[a.ID] {
			continue
		}
		if err := remove(s, host, a.ID, senders.unguard); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return wrapAll(types.ErrIOFailure, "collecting attachments that are gone", errs)
	}
	return nil
}

// wrapAll makes one error of several, so that none hides the others.
func wrapAll(code uint, doing string, errs []error) error {
	return fail(code, doing+": "+errors.Join(errs...).Error())
}

package cni

import (
	"fmt"
	"net"

	"github.com/weaveguard/weaveguard/cni/bridge"
	"github.com/weaveguard/weaveguard/cni/guard"
	"github.com/weaveguard/weaveguard/cni/store"
)

// detacher takes attachments from the kernel. It opens what it needs when it needs it.
type detacher struct {
	// hold has the process that removes the devices hold the socket of nftables, see guard.Remover. With many requests each
	// would have such a process until this one ends; then rather this one waits, once, in its end.
	hold    bool
	host    *bridge.Host
	remover *guard.Remover
}

func (d *detacher) close() {
	if d.host != nil {
		d.host.Close()
	}
}

// detach takes attachments from the sets of senders, and removes their interfaces. It returns an error or nil for each. What
// isn't there any more is no error.
func (d *detacher) detach(all []store.Attachment) []error {
	errs := make([]error, len(all))
	if d.host == nil {
		host, err := openHost()
		if err != nil {
			fill(errs, err)
			return errs
		}
		d.host = host
	}
	d.unguard(all, errs)
	var ends []bridge.End
	var which []int // of all
	for i, a := range all {
		if errs[i] == nil {
			mac, _ := net.ParseMAC(a.MAC) // one that isn't known the interface is found without
			ends, which = append(ends, bridge.End{Name: a.HostInterface(), MAC: mac}), append(which, i)
		}
	}
	for k, err := range d.host.Detach(ends...) {
		if i := which[k]; err != nil {
			errs[i] = wrap(CodeKernel, fmt.Sprintf("removing the interface of %s", all[i].ID), err)
		}
	}
	return errs
}

// unguard is the reverse of config.guard.
func (d *detacher) unguard(all []store.Attachment, errs []error) {
	var ports []guard.Port
	var which []int // of all
	for i, a := range all {
		// Of one that has no port nobody knows the elements; the agent removes those of ports that are gone.
		if port, err := guard.PortOf(a); err == nil {
			ports, which = append(ports, port), append(which, i)
		}
	}
	if len(ports) == 0 {
		return
	}
	if d.remover == nil {
		remover, err := guard.NewRemover()
		if err != nil {
			fill(errs, wrap(CodeKernel, "taking pods from the sets of senders", err))
			return
		}
		if d.hold {
			d.host.Hold(remover.Descriptor())
		}
		d.remover = remover
	}
	for k, err := range d.remover.Remove(ports...) {
		if i := which[k]; err != nil {
			errs[i] = wrap(CodeKernel, fmt.Sprintf("removing %s from the sets of senders", all[i].ID), err)
		}
	}
}

// fill makes all errors this one.
func fill(errs []error, err error) {
	for i := range errs {
		errs[i] = err
	}
}

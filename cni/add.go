package cni

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"runtime"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/weaveguard/weaveguard/cni/bridge"
	"github.com/weaveguard/weaveguard/cni/ipam"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// podArgs are the arguments by which Kubernetes' runtimes name the pod in CNI_ARGS. The names of its fields are theirs.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE          types.UnmarshallableString
	K8S_POD_NAME               types.UnmarshallableString
	K8S_POD_UID                types.UnmarshallableString
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString
}

func podOf(args *skel.CmdArgs) (pod podArgs, err error) {
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return pod, wrap(types.ErrInvalidEnvironmentVariables, "CNI_ARGS: use KEY=VALUE;KEY=VALUE, with IgnoreUnknown=1 if "+
			"there are keys for other plugins", err)
	}
	return pod, nil
}

// attachment begins an attachment of the pod, to which addresses and MAC are missing yet.
func (p podArgs) attachment(args *skel.CmdArgs, name string, n network, inode uint64) store.Attachment {
	id := store.ID{ContainerID: args.ContainerID, IfName: args.IfName}
	return store.Attachment{
		ID:           id,
		Network:      name,
		Bridge:       n.bridge,
		Ranges:       n.ranges,
		MTU:          n.mtu,
		Netns:        args.Netns,
		NetnsInode:   inode,
		PodNamespace: string(p.K8S_POD_NAMESPACE),
		PodName:      string(p.K8S_POD_NAME),
		PodUID:       string(p.K8S_POD_UID),
		HostIfName:   id.HostInterface(),
		Created:      time.Now().UTC(),
	}
}

// add attaches a sandbox. First the attachment and its addresses are stored, then the kernel follows: so whatever a
// killed ADD leaves in the kernel is in the store for DEL, GC and the agent to find.
func (p *plugin) add(args *skel.CmdArgs) error {
	// One thing after the other: more threads take time from the other plugins that run. (For what is shorter than an ADD it
	// costs more than it saves.)
	runtime.GOMAXPROCS(1)
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	n, err := c.resolve()
	if err != nil {
		return err
	}
	pod, err := podOf(args)
	if err != nil {
		return err
	}
	want, err := c.requests(n)
	if err != nil {
		return err
	}
	sandbox, err := openSandbox(args.Netns)
	if err != nil {
		return err
	}
	defer sandbox.Close()
	s, err := c.openStore()
	if err != nil {
		return err
	}
	host, err := openHost()
	if err != nil {
		return err
	}
	defer host.Close()
	index, err := ensure(host, n)
	if err != nil {
		return err
	}
	a, err := reserve(s, n, want, pod.attachment(args, c.Name, n, sandbox.Inode()))
	if err != nil {
		return err
	}
	port, err := portOf(a, n)
	if err != nil {
		return undo(s, a.ID, err)
	}
	if err := host.Attach(index, sandbox, port); err != nil {
		return undo(s, a.ID, attachError(err, args))
	}
	d := detacher{hold: true, host: host}
	if err := c.guard(a); err != nil {
		return d.undo(s, a, err)
	}
	if err := stillStored(s, a); err != nil {
		return also(err, d.detachOne(a))
	}
	if err := p.print(result(c, n, a, port, args.Netns), c.CNIVersion); err != nil {
		return d.undo(s, a, err)
	}
	return nil
}

// stillStored returns an error if GC or the agent has forgotten the attachment meanwhile: they take one whose interface
// isn't there for stale. Now it is there.
func stillStored(s *store.Store, a store.Attachment) error {
	return change(s, func(tx *store.Tx) error {
		now, err := tx.Get(a.ID)
		if err == nil && now.Created.Equal(a.Created) {
			return nil
		}
		return fail(types.ErrTryAgainLater, fmt.Sprintf("attaching %s took so long that it was taken for gone (%s ago); is this "+
			"node overloaded?", a.ID, time.Since(a.Created).Round(time.Millisecond)))
	})
}

func openSandbox(path string) (*bridge.Sandbox, error) {
	s, err := bridge.OpenSandbox(path)
	switch {
	case err == nil:
		return s, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fail(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS: %s doesn't exist; the sandbox may be gone already", path))
	case errors.Is(err, bridge.ErrNotNetns):
		return nil, fail(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS: %s isn't a network namespace", path))
	case errors.Is(err, bridge.ErrOwnNetns):
		return nil, fail(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS: %s is the node's own network namespace; a pod of the "+
			"host's network needs no plugin", path))
	}
	return nil, wrap(types.ErrInvalidNetNS, "CNI_NETNS", err)
}

func ensure(host *bridge.Host, n network) (int, error) {
	index, err := host.Ensure(n.spec())
	switch {
	case err == nil:
		return index, nil
	case errors.Is(err, bridge.ErrForeign):
		return 0, fail(CodeForeignBridge, fmt.Sprintf("network configuration, key bridge: %v", err))
	case errors.Is(err, bridge.ErrForwarding):
		return 0, fail(types.ErrTryAgainLater, fmt.Sprintf("%v; the Weaveguard agent sets this when it starts: see `kubectl "+
			"logs -n kube-system POD -c weave`", err))
	}
	return 0, wrap(CodeKernel, "setting up the bridge "+n.bridge, err)
}

// reserve gives an attachment its addresses and MAC, and stores it.
func reserve(s *store.Store, n network, want wanted, a store.Attachment) (store.Attachment, error) {
	err := change(s, func(tx *store.Tx) error {
		old, err := tx.Get(a.ID)
		if err == nil {
			return fail(CodeAttached, fmt.Sprintf("CNI_CONTAINERID, CNI_IFNAME: %s is attached already, with %v; a runtime "+
				"calls DEL before another ADD", a.ID, old.Addresses))
		}
		if !errors.Is(err, store.ErrNotFound) {
			return wrap(types.ErrIOFailure, "looking for an attachment; DEL removes a damaged one", err)
		}
		if want.mac != nil {
			if err := unused(tx, n.bridge, want.mac); err != nil {
				return err
			}
		}
		if a.Addresses, err = ipam.Allocate(s, tx, a.ID, n.pools, want.addresses); err != nil {
			return allocateError(err)
		}
		mac := want.mac
		if mac == nil {
			mac = contract.PodMAC(a.Addresses[0])
		}
		a.MAC = mac.String()
		if err := tx.Put(a); err != nil {
			return wrap(types.ErrIOFailure, "storing the attachment", errors.Join(err, tx.Release(a.ID, a.Addresses...)))
		}
		return nil
	})
	return a, err
}

func allocateError(err error) error {
	var exhausted *ipam.ExhaustedError
	var taken *ipam.TakenError
	switch {
	case errors.As(err, &exhausted):
		return fail(CodeExhausted, fmt.Sprintf("%v; this node can't hold more pods until some end", err))
	case errors.As(err, &taken):
		return fail(CodeTaken, fmt.Sprintf("network configuration, key runtimeConfig.ips: %v; choose another, or DEL what has it", err))
	}
	return wrap(types.ErrIOFailure, "choosing an address", err)
}

// undo detaches and forgets an attachment that couldn't be completed. The error that it is given comes first.
func (d *detacher) undo(s *store.Store, a store.Attachment, cause error) error {
	if err := d.detachOne(a); err != nil {
		return also(cause, err) // its addresses stay taken, as it has them
	}
	return undo(s, a.ID, cause)
}

// undo forgets an attachment that couldn't be made. The error that it is given comes first.
func undo(s *store.Store, id store.ID, cause error) error {
	return also(cause, change(s, func(tx *store.Tx) error { return tx.Remove(id) }))
}

// also adds to an error that undoing what came before it failed, if it did.
func also(cause, err error) error {
	if err == nil {
		return cause
	}
	var coded *types.Error
	if errors.As(cause, &coded) {
		return fail(coded.Code, fmt.Sprintf("%s; and undoing it failed, so call DEL: %v", coded.Msg, err))
	}
	return fmt.Errorf("%w; and undoing it failed, so call DEL: %w", cause, err)
}

func attachError(err error, args *skel.CmdArgs) error {
	if errors.Is(err, bridge.ErrInterfaceExists) {
		return fail(CodeAttached, fmt.Sprintf("CNI_IFNAME: the sandbox %s has an interface %s already, which isn't of this "+
			"attachment; use another name, or remove it", args.Netns, args.IfName))
	}
	return wrap(CodeKernel, "connecting the sandbox "+args.Netns, err)
}

func portOf(a store.Attachment, n network) (bridge.Port, error) {
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		return bridge.Port{}, wrap(types.ErrInternal, "reading the MAC again", err)
	}
	port := bridge.Port{HostIfName: a.HostIfName, IfName: a.IfName, MAC: mac, MTU: a.MTU, Ranges: n.ranges, Reached: n.reached}
	for i, address := range a.Addresses {
		port.Addresses = append(port.Addresses, bridge.Address{Address: address, Gateway: n.pools[i].Gateway})
	}
	return port, nil
}

// single is an address as a subnet of its own.
func single(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

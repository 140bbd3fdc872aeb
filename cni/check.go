package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weaveguard/weaveguard/cni/bridge"
	"github.com/weaveguard/weaveguard/cni/guard"
	"github.com/weaveguard/weaveguard/cni/store"
)

// check compares store and kernel with what ADD answered. It needs no ready file: what was attached stays so.
func (p *plugin) check(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	prev, err := previous(c)
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
	id := store.ID{ContainerID: args.ContainerID, IfName: args.IfName}
	a, err := s.Get(id)
	if errors.Is(err, store.ErrNotFound) {
		return fail(CodeDiffers, fmt.Sprintf("CHECK: %s isn't attached, says %s; DEL and ADD make it again", id, c.DataDir))
	}
	if err != nil {
		return wrap(types.ErrIOFailure, "looking for the attachment", err)
	}
	port, differs := compare(a, prev, sandbox.Inode())
	if len(port.Addresses) == len(a.Addresses) {
		host, err := openHost()
		if err != nil {
			return err
		}
		defer host.Close()
		more, err := host.Check(a.Bridge, sandbox, port)
		if err != nil {
			return wrap(CodeKernel, "CHECK", err)
		}
		differs = append(differs, more...)
		unguarded, err := c.checkGuard(a)
		if err != nil {
			return wrap(CodeKernel, "CHECK", err)
		}
		differs = append(differs, unguarded...)
	}
	if len(differs) > 0 {
		return fail(CodeDiffers, fmt.Sprintf("CHECK: %s; DEL and ADD make it again", strings.Join(differs, "; ")))
	}
	return nil
}

func previous(c *config) (*current.Result, error) {
	if c.RawPrevResult == nil {
		return nil, invalid("prevResult", "it is missing; CHECK needs the result of ADD")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, wrap(types.ErrDecodingFailure, "network configuration, key prevResult", err)
	}
	prev, err := current.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, wrap(types.ErrDecodingFailure, "network configuration, key prevResult", err)
	}
	return prev, nil
}

// compare returns the port that store and prevResult agree on, and what they don't. The result may hold more than
// ours: other plugins of the list may have added to it. The port is whole only if each address is in the result.
func compare(a store.Attachment, prev *current.Result, inode uint64) (bridge.Port, []string) {
	var differs []string
	if a.NetnsInode != inode {
		differs = append(differs, fmt.Sprintf("CNI_NETNS is another namespace than the one that was attached, %s", a.Netns))
	}
	mac, err := net.ParseMAC(a.MAC)
	if err != nil {
		differs = append(differs, fmt.Sprintf("the attachment's MAC %q is damaged", a.MAC))
	}
	inside := -1
	for i, ifc := range prev.Interfaces {
		if ifc.Name == a.IfName && ifc.Sandbox != "" {
			inside = i
			if ifc.Mac != a.MAC {
				differs = append(differs, fmt.Sprintf("prevResult has the MAC %s for %s, and the attachment %s", ifc.Mac, a.IfName, a.MAC))
			}
		}
	}
	if inside < 0 {
		differs = append(differs, fmt.Sprintf("prevResult has no interface %s in a sandbox", a.IfName))
	}
	port := bridge.Port{HostIfName: a.HostIfName, IfName: a.IfName, MAC: mac, MTU: a.MTU, Ranges: a.Ranges}
	for _, address := range a.Addresses {
		gateway, ok := gatewayOf(prev, address)
		if !ok || mac == nil {
			differs = append(differs, fmt.Sprintf("prevResult lacks the attachment's address %s, or its gateway", address))
			continue
		}
		port.Addresses = append(port.Addresses, bridge.Address{Address: address, Gateway: gateway})
	}
	return port, differs
}

func gatewayOf(prev *current.Result, address netip.Addr) (netip.Addr, bool) {
	for _, ip := range prev.IPs {
		if ip.Address.IP.Equal(address.AsSlice()) {
			gateway, ok := netip.AddrFromSlice(ip.Gateway)
			return gateway.Unmap(), ok
		}
	}
	return netip.Addr{}, false
}

// status says whether ADD would find the node ready (CNI spec 1.1.0, section 2, STATUS).
func (p *plugin) status(args *skel.CmdArgs) error {
	c, err := parse(args.StdinData)
	if err != nil {
		return err
	}
	n, err := c.resolve()
	var coded *types.Error
	if errors.As(err, &coded) && coded.Code != types.ErrInvalidNetworkConfig && coded.Code != types.ErrUnsupportedField {
		return fail(types.ErrPluginNotAvailable, coded.Msg)
	}
	if err != nil || c.alone() && n.ranges == nil {
		return err
	}
	if err := guard.Ready(); err != nil {
		return fail(types.ErrPluginNotAvailable, err.Error())
	}
	return nil
}

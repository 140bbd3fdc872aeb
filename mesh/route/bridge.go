package route

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// ApplyBridges makes the bridges, or adopts them, with alias, MAC, MTU, addresses and no spanning tree, and brings
// them up. A bridge of that name that isn't ours is an error that says whose it looks like (contract.ForeignBridge),
// and is left alone. A bridge of ours that isn't among them is removed once it has no ports. Interfaces of pods that were taken
// off their bridge, or down, are put back.
func (a *Applier) ApplyBridges(ctx context.Context, bridges []view.Bridge) (int, error) {
	c := a.begin(ctx)
	links, err := readLinks()
	if err != nil {
		return 0, err
	}
	for _, bridge := range bridges {
		a.bridge(c, links, bridge)
	}
	for _, name := range links.names() {
		link := links.byName[name]
		wanted := slices.ContainsFunc(bridges, func(b view.Bridge) bool { return b.Name == name })
		if wanted || !isOurBridge(link) || len(links.ports(link)) > 0 {
			continue
		}
		c.write("removing the bridge "+name, func() error { return netlink.LinkDel(link) })
	}
	if c.writes > 0 { // a bridge may be another one, and have lost its ports
		if links, err = readLinks(); err != nil {
			c.fail(err)
			return c.result()
		}
	}
	a.ports(c, links, bridges)
	return c.result()
}

func (a *Applier) bridge(c *changes, links links, want view.Bridge) {
	link := links.byName[want.Name]
	if link == nil {
		if link = c.makeBridge(want); link == nil {
			return
		}
	}
	addresses, err := readAddresses(link)
	if err != nil {
		c.fail(err)
		return
	}
	if err := contract.ForeignBridge(links.host(link), addresses, want.MAC); err != nil {
		c.fail(err)
		return
	}
	if !bytes.Equal(link.Attrs().HardwareAddr, want.MAC) {
		c.write("setting the MAC of "+want.Name, func() error {
			return netlink.LinkSetHardwareAddr(link, want.MAC)
		})
	}
	c.noSpanningTree(link)
	c.adopt(link, want.MTU)
	c.addresses(link, a.withFamilies(c, want.Name, want.Addresses))
}

// makeBridge makes a bridge with its MAC, which marks it as ours until it has the alias. The MTU comes after:
// only one that was set on an existing bridge stays when ports join. The plugin may be making it as well.
// It returns nil when it failed.
func (c *changes) makeBridge(want view.Bridge) netlink.Link {
	failures := len(c.errs)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr = want.Name, want.MAC
	c.write("making the bridge "+want.Name, func() error {
		err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs})
		if errors.Is(err, unix.EEXIST) {
			return errNoChange
		}
		return err
	})
	if len(c.errs) > failures {
		return nil
	}
	link, err := dump("bridge "+want.Name, func() (netlink.Link, error) { return netlink.LinkByName(want.Name) })
	if err != nil {
		c.fail(err)
		return nil
	}
	return link
}

// noSpanningTree turns off STP and its forward delay, so that a new port forwards at once. The delay comes second:
// with STP on the kernel refuses 0.
func (c *changes) noSpanningTree(link netlink.Link) {
	for _, option := range []uint16{nl.IFLA_BR_STP_STATE, nl.IFLA_BR_FORWARD_DELAY} {
		value, err := bridgeOption(link, option)
		if err != nil {
			c.fail(err)
			return
		}
		if value == 0 {
			continue
		}
		c.write("turning off the spanning tree of "+link.Attrs().Name, func() error {
			return clearBridgeOption(link, option)
		})
	}
}

// bridgeOption reads one 32-bit option of a bridge (rtnetlink's IFLA_BR_*), which the library doesn't know.
func bridgeOption(link netlink.Link, option uint16) (uint32, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	replies, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if err != nil {
		return 0, fmt.Errorf("reading the options of the bridge %s: %w", link.Attrs().Name, err)
	}
	for _, reply := range replies {
		value := nested(reply[unix.SizeofIfInfomsg:], unix.IFLA_LINKINFO, nl.IFLA_INFO_DATA, option)
		if len(value) == 4 {
			return nl.NativeEndian().Uint32(value), nil
		}
	}
	return 0, fmt.Errorf("reading the options of the bridge %s: the kernel doesn't tell option %d",
		link.Attrs().Name, option)
}

// nested walks down attributes within attributes; nil when one isn't there.
func nested(data []byte, path ...uint16) []byte {
	for _, step := range path {
		attrs, err := nl.ParseRouteAttr(data)
		if err != nil {
			return nil
		}
		data = nil
		for _, attr := range attrs {
			if attr.Attr.Type&^unix.NLA_F_NESTED == step {
				data = attr.Value
			}
		}
	}
	return data
}

func clearBridgeOption(link netlink.Link, option uint16) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	req.AddData(msg)
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated(kindBridge))
	data := info.AddRtAttr(nl.IFLA_INFO_DATA, nil)
	data.AddRtAttr(int(option), nl.Uint32Attr(0))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

package route

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/weaveguard/weaveguard/cni/port"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/view"
	"golang.org/x/sys/unix"
)

// plugTime is how long the plugin may take to make an interface a port of its bridge. Until then nobody helps it.
const plugTime = 5 * time.Second

// ports puts interfaces of pods back on their bridges: those that somebody took off, put on another one, or let
// reach the other pods there, and those of a bridge that was removed and made again. Onto a bridge that isn't ours, whatever its name, it puts none.
func (a *Applier) ports(c *changes, links links, bridges []view.Bridge) {
	ours := make(map[int]bool) // by index
	for _, bridge := range bridges {
		if link := links.byName[bridge.Name]; link != nil && isOurBridge(link) {
			ours[link.Attrs().Index] = true
		}
	}
	a.left.Store(false)
	names := slices.DeleteFunc(links.names(), func(name string) bool { return !strings.HasPrefix(name, store.PortPrefix) })
	if len(names) == 0 || a.storeDir == "" {
		return
	}
	loose, err := loosePorts()
	if err != nil {
		c.fail(err)
		return
	}
	astray := slices.ContainsFunc(names, func(name string) bool {
		attrs := links.byName[name].Attrs()
		return !ours[attrs.MasterIndex] || isDown(links.byName[name]) || loose[attrs.Index]
	})
	if !astray {
		return
	}
	attached, err := store.ListIn(a.storeDir)
	if err != nil && len(attached) == 0 {
		c.fail(fmt.Errorf("finding out whose interfaces aren't on their bridge: %w", err))
		return
	}
	h := &netlink.Handle{} // of this namespace
	for _, at := range attached {
		link, bridge := links.byName[at.HostIfName], links.byName[at.Bridge]
		mac, err := net.ParseMAC(at.MAC)
		if link == nil || link.Type() != "veth" || bridge == nil || !ours[bridge.Attrs().Index] || err != nil {
			continue
		}
		if attrs := link.Attrs(); attrs.MasterIndex == bridge.Attrs().Index && !isDown(link) && !loose[attrs.Index] {
			continue
		}
		if isNew(at) {
			a.left.Store(true)
			continue
		}
		c.write(fmt.Sprintf("putting %s of the pod %s/%s back on the bridge %s", at.HostIfName, at.PodNamespace, at.PodName, at.Bridge), func() error {
			err := errors.Join(port.Connect(h, link, bridge.Attrs().Index, mac), netlink.LinkSetUp(link))
			if gone(err) {
				return errNoChange
			}
			return err
		})
	}
}

// loosePorts are the ports of bridges, by index, that aren't isolated, or that the bridge learns from: see port.Connect.
func loosePorts() (map[int]bool, error) {
	replies, err := dump("ports of bridges", func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETLINK, unix.NLM_F_DUMP)
		req.AddData(nl.NewIfInfomsg(unix.AF_BRIDGE))
		return req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWLINK)
	})
	if err != nil {
		return nil, err
	}
	loose := make(map[int]bool)
	for _, reply := range replies {
		isolated := nested(reply[unix.SizeofIfInfomsg:], unix.IFLA_PROTINFO, nl.IFLA_BRPORT_ISOLATED)
		learning := nested(reply[unix.SizeofIfInfomsg:], unix.IFLA_PROTINFO, nl.IFLA_BRPORT_LEARNING)
		if len(isolated) == 1 && len(learning) == 1 { // a bridge has neither
			loose[int(nl.DeserializeIfInfomsg(reply).Index)] = isolated[0] == 0 || learning[0] != 0
		}
	}
	return loose, nil
}

func isDown(link netlink.Link) bool { return link.Attrs().Flags&net.FlagUp == 0 }

// isNew reports whether the plugin may be at it still. One of the future is of a clock that was set back since.
func isNew(at store.Attachment) bool {
	age := time.Since(at.Created)
	return age >= 0 && age < plugTime
}

package cni_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/weaveguard/weaveguard/cni/store"
)

func TestDelNeedsNothing(t *testing.T) {
	for _, tt := range []struct {
		name    string
		prepare func(n *node, sandbox ns.NetNS) call
	}{
		{"all is there", func(n *node, sandbox ns.NetNS) call {
			return call{netns: sandbox.Path(), stdin: n.config(nil)}
		}},
		{"no CNI_NETNS", func(n *node, _ ns.NetNS) call { return call{stdin: n.config(nil)} }},
		{"namespace gone", func(n *node, sandbox ns.NetNS) call {
			closeNS(sandbox)
			return call{netns: sandbox.Path(), stdin: n.config(nil)}
		}},
		{"path is a file now", func(n *node, sandbox ns.NetNS) call {
			return call{netns: "/etc/hostname", stdin: n.config(nil)}
		}},
		{"no ready file", func(n *node, sandbox ns.NetNS) call {
			return call{netns: sandbox.Path(), stdin: n.config(map[string]any{"subnets": nil})}
		}},
		{"subnets that ADD would refuse", func(n *node, sandbox ns.NetNS) call {
			return call{netns: sandbox.Path(), stdin: n.config(map[string]any{"subnets": []string{"nonsense"}})}
		}},
		{"bridge gone", func(n *node, sandbox ns.NetNS) call {
			n.netlink(func() error {
				br, err := netlink.LinkByName("weave")
				if err != nil {
					return err
				}
				return netlink.LinkDel(br)
			})
			return call{netns: sandbox.Path(), stdin: n.config(nil)}
		}},
		{"another MAC at the host's end", func(n *node, sandbox ns.NetNS) call {
			n.netlink(onHostEnd(func(link netlink.Link) error {
				return netlink.LinkSetHardwareAddr(link, net.HardwareAddr{2, 0, 0, 0, 0, 1})
			}))
			return call{netns: sandbox.Path(), stdin: n.config(nil)}
		}},
		{"attachment damaged", func(n *node, sandbox ns.NetNS) call {
			damage(n)
			return call{netns: sandbox.Path(), stdin: n.config(nil)}
		}},
		{"store gone", func(n *node, sandbox ns.NetNS) call {
			if err := os.RemoveAll(n.dataDir); err != nil {
				n.Fatal(err)
			}
			return call{netns: sandbox.Path(), stdin: n.config(nil)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, sandbox := newNode(t), newNS(t)
			n.add("c1", sandbox, nil)
			c := tt.prepare(n, sandbox)
			c.verb, c.container = "DEL", "c1"
			for range 2 { // the second finds nothing, which is success
				if _, err := n.run(c); err != nil {
					t.Fatalf("DEL: %v", err)
				}
				n.wantNoLeftovers()
			}
		})
	}
}

// damage cuts all attachment files short.
func damage(n *node) {
	n.Helper()
	dir := n.dataDir + "/attachments/"
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		n.Fatal(entries, err)
	}
	for _, e := range entries {
		if err := os.WriteFile(dir+e.Name(), []byte(`{"ver`), 0o600); err != nil {
			n.Fatal(err)
		}
	}
}

// What has taken the name of a pod's interface, and isn't one, isn't removed.
func TestDelRemovesNoOtherDevice(t *testing.T) {
	n, sandbox := newNode(t), newNS(t)
	n.add("c1", sandbox, nil)
	n.netlink(onHostEnd(func(link netlink.Link) error {
		if err := netlink.LinkDel(link); err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: link.Attrs().Name}})
	}))
	c := call{verb: "DEL", container: "c1", netns: sandbox.Path(), stdin: n.config(nil)}
	n.fails(c, 104, "is a bridge, not the veth of a pod: not removing it")
	n.netlink(onHostEnd(netlink.LinkDel))
	n.del("c1", sandbox.Path())
	n.wantNoLeftovers()
}

func TestDelLeavesOthersAlone(t *testing.T) {
	n, a, b := newNode(t), newNS(t), newNS(t)
	n.add("a", a, nil)
	r := n.add("b", b, nil)
	n.del("a", a.Path())
	n.del("unknown", "")
	n.checkWorks("b", b, r)
}

// A plugin is killed when it has asked for the removal of its device, and the next one removes that too. All else stays.
func TestDelRemovesWhatAKilledOneLeft(t *testing.T) {
	n, killed, other, valid := newNode(t), newNS(t), newNS(t), newNS(t)
	n.add("c1", killed, nil)
	left := n.leftovers()
	n.netlink(onHostEnd(func(link netlink.Link) error { return netlink.LinkSetGroup(link, 0x77656176) }))
	n.add("other", other, nil)
	r := n.add("valid", valid, nil)
	n.del("other", other.Path())
	n.checkWorks("valid", valid, r)
	after := n.leftovers()
	for _, what := range left {
		if strings.HasPrefix(what, "interface ") && slices.Contains(after, what) {
			t.Errorf("%s is still there", what)
		}
	}
	n.del("c1", killed.Path())
	n.del("valid", valid.Path())
	n.wantNoLeftovers()
}

// Many DELs at once: whoever removes them all, one that can't be carried out fails alone.
func TestDelsAtOnce(t *testing.T) {
	const count = 20
	n := newNode(t)
	n.add("first", newNS(t), nil)
	n.guardNode()
	for i := range count {
		n.add(fmt.Sprint("c", i), newNS(t), nil)
	}
	bad := store.ID{ContainerID: "c7", IfName: "eth0"}.HostInterface()
	n.netlink(func() error {
		link, err := netlink.LinkByName(bad)
		if err != nil {
			return err
		}
		if err := netlink.LinkDel(link); err != nil {
			return err
		}
		return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bad}})
	})
	removing := filepath.Join(n.dataDir, "removals")
	lock, err := os.Open(removing)
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := range count {
		all.Go(func() {
			_, err := n.run(call{verb: "DEL", container: fmt.Sprint("c", i), stdin: n.config(nil)})
			if failed := err != nil; failed != (i == 7) || failed && !strings.Contains(err.Error(), "not the veth of a pod") {
				t.Errorf("DEL of c%d: %v", i, err)
			}
		})
	}
	await(t, "all are to be removed", func() bool {
		marks, err := os.ReadDir(removing)
		return err == nil && len(marks) == count
	})
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	all.Wait()
	if got := strings.Count(n.tool("nft", "list", "set", "bridge", "weaveguard", "pods4"), "10.32.5."); got != 1 {
		t.Errorf("%d pods may still send, want the first alone", got)
	}
	n.netlink(func() error {
		link, err := netlink.LinkByName(bad)
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	n.del("c7", "")
	n.del("first", "")
	n.wantNoLeftovers()
}

// With a table of nftables that takes no element of ours ADD fails, and gives its address back only as the interface is gone. What is
// attached can be detached.
func TestBrokenTable(t *testing.T) {
	n := newNode(t)
	n.add("first", newNS(t), nil)
	n.tool("nft", "add", "table", "bridge", "weaveguard")
	for _, set := range []string{"pods4", "pods6", "neighbours6"} {
		n.tool("nft", "add", "set", "bridge", "weaveguard", set, "{ type mark; }")
	}
	n.fails(call{verb: "ADD", container: "second", netns: newNS(t).Path(), stdin: n.config(nil)}, 104, "letting", "send from its own addresses")
	if left := n.leftovers(); len(left) != 3 {
		t.Errorf("left are %v, want interface, attachment and address of the first", left)
	}
	n.del("first", "")
	n.wantNoLeftovers()
}

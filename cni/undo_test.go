package cni_test

import (
	"net"
	"os"
	"os/exec"
	"testing"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"
)

// A reboot, or an operator, may take the store and leave the interface.
func TestAddReplacesAnOrphanedInterface(t *testing.T) {
	n, old := newNode(t), newNS(t)
	n.add("c1", old, nil)
	if err := os.RemoveAll(n.dataDir); err != nil {
		t.Fatal(err)
	}
	sandbox := newNS(t)
	r := n.add("c1", sandbox, nil)
	n.checkWorks("c1", sandbox, r)
}

func TestAddIsAllOrNothing(t *testing.T) {
	t.Run("the interface exists in the sandbox", func(t *testing.T) {
		n, sandbox := newNode(t), newNS(t)
		in(t, sandbox, func() error {
			return netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0", TxQLen: -1}})
		})
		n.fails(call{verb: "ADD", container: "c1", netns: sandbox.Path(), stdin: n.config(nil)}, 103, "CNI_IFNAME", "eth0", sandbox.Path())
		n.wantNoLeftovers()
	})
	t.Run("the default route exists in the sandbox", func(t *testing.T) {
		n, sandbox := newNode(t), newNS(t)
		in(t, sandbox, func() error {
			br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "other", TxQLen: -1, Flags: net.FlagUp}}
			if err := netlink.LinkAdd(br); err != nil {
				return err
			}
			_, all, err := net.ParseCIDR("0.0.0.0/0")
			if err != nil {
				return err
			}
			return netlink.RouteAdd(&netlink.Route{LinkIndex: br.Index, Dst: all, Scope: netlink.SCOPE_LINK})
		})
		n.fails(call{verb: "ADD", container: "c1", netns: sandbox.Path(), stdin: n.config(nil)}, 104, "default route", "10.32.5.1", "file exists")
		n.wantNoLeftovers()
		in(t, sandbox, func() error {
			if _, err := netlink.LinkByName("eth0"); err == nil {
				t.Error("eth0 is still in the sandbox")
			}
			return nil
		})
	})
	t.Run("nobody reads the result", func(t *testing.T) {
		n, sandbox := newNode(t), newNS(t)
		full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer full.Close()
		cmd := n.command(call{verb: "ADD", container: "c1", netns: sandbox.Path(), stdin: n.config(nil)})
		cmd.Stdout = full
		err = n.ns.Do(func(ns.NetNS) error { return cmd.Run() })
		if _, ok := err.(*exec.ExitError); !ok {
			t.Fatalf("ADD: %v, want it to fail", err)
		}
		n.wantNoLeftovers()
	})
	t.Run("no IPv6 address is left", func(t *testing.T) {
		n := newNode(t)
		small := map[string]any{"subnets": []string{"10.32.5.0/24", "fd00:5::/126"}}
		n.add("c1", newNS(t), small)
		n.add("c2", newNS(t), small)
		n.fails(call{verb: "ADD", container: "c3", netns: newNS(t).Path(), stdin: n.config(small)}, 102, "fd00:5::/126", "2 are in use")
		n.del("c1", "")
		n.del("c2", "")
		n.wantNoLeftovers()
	})
	t.Run("attached already", func(t *testing.T) {
		n, sandbox := newNode(t), newNS(t)
		r := n.add("c1", sandbox, nil)
		n.fails(call{verb: "ADD", container: "c1", netns: sandbox.Path(), stdin: n.config(nil)}, 103, "c1", "10.32.5.2", "DEL")
		n.fails(call{verb: "ADD", container: "c1", netns: newNS(t).Path(), stdin: n.config(nil)}, 103)
		n.checkWorks("c1", sandbox, r)
	})
}

package cni_test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"
	"github.com/vishvananda/netlink"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/test/full"
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

func TestGC(t *testing.T) {
	n := newNode(t)
	sandboxes := make(map[string]ns.NetNS)
	for _, c := range []string{"valid", "stale", "gone"} {
		sandboxes[c] = newNS(t)
		n.add(c, sandboxes[c], nil)
	}
	other := newNS(t)
	n.add("other", other, map[string]any{"name": "another-network"})
	before := n.leftovers()
	if _, err := n.run(call{verb: "GC", stdin: n.config(nil)}); err != nil {
		t.Fatal(err)
	}
	if after := n.leftovers(); len(after) != len(before) {
		t.Errorf("GC without a list of what is valid left %v of %v", after, before)
	}
	closeNS(sandboxes["gone"])
	_, err := n.run(call{verb: "GC", stdin: n.config(map[string]any{
		"cni.dev/valid-attachments": []map[string]string{{"containerID": "valid", "ifname": "eth0"}, {"containerID": "stale", "ifname": "net1"}},
	})})
	if err != nil {
		t.Fatal(err)
	}
	n.del("valid", "")
	if found := n.leftovers(); len(found) != 3 { // interface, attachment and address of the other network
		t.Errorf("GC left %v, want what is of another network", found)
	}
	n.fails(call{verb: "GC", stdin: n.config(map[string]any{"cniVersion": "1.0.0"})}, 1, "cniVersion")
}

// However many attachments GC collects, it has few processes that remove devices at a time.
func TestGCHasFewProcesses(t *testing.T) {
	const attachments, few = 40, 8
	n := newNode(t)
	for i := range attachments {
		n.add(fmt.Sprint("c", i), newNS(t), nil)
	}
	cmd := n.command(call{verb: "GC", stdin: n.config(map[string]any{"cni.dev/valid-attachments": []any{}})})
	if err := n.ns.Do(func(ns.NetNS) error { return cmd.Start() }); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for most := 0; ; {
		select {
		case err := <-ended:
			if err != nil {
				t.Fatal(err)
			}
			n.wantNoLeftovers()
			if most > few {
				t.Errorf("it had %d processes at a time that remove devices", most)
			}
			return
		default:
			most = max(most, children(cmd.Process.Pid))
		}
	}
}

// children counts the running children of a process.
func children(parent int) int {
	count := 0
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", parent))
	for _, task := range tasks {
		pids, _ := os.ReadFile(task)
		for _, pid := range strings.Fields(string(pids)) {
			stat, err := os.ReadFile("/proc/" + pid + "/stat")
			if err == nil && !strings.Contains(string(stat), ") Z ") { // a zombie costs nothing but its number
				count++
			}
		}
	}
	return count
}

// An ADD or DEL that is killed at any point leaves nothing that DEL, or an ADD of another pod, can't deal with.
func TestKilled(t *testing.T) {
	rounds := 60
	if full.Wanted() {
		rounds = 1000
	}
	n := newNode(t)
	n.add("first", newNS(t), nil) // so that the time of an ADD is known with the bridge made
	start := time.Now()
	n.add("second", newNS(t), nil)
	took := map[string]time.Duration{"ADD": time.Since(start)}
	n.del("first", "")
	start = time.Now()
	n.del("second", "")
	took["DEL"] = time.Since(start)
	killed := map[string]int{}
	for i := range rounds {
		sandbox := newNS(t)
		container, verb := fmt.Sprint("c", i), "ADD"
		if i%2 == 1 {
			verb = "DEL"
			n.add(container, sandbox, nil)
		}
		cmd := n.command(call{verb: verb, container: container, netns: sandbox.Path(), stdin: n.config(nil)})
		if err := n.ns.Do(func(ns.NetNS) error { return cmd.Start() }); err != nil {
			t.Fatal(err)
		}
		time.Sleep(took[verb] * time.Duration(10+rand.IntN(100)) / 100) // when to kill, not a wait for anything
		_ = cmd.Process.Kill()                                          // or it has ended already
		if err := cmd.Wait(); err != nil {
			killed[verb]++
		}
		r := n.add("next"+container, newNS(t), nil)
		n.checkWorks("next"+container, nil, r)
		n.del("next"+container, "")
		n.del(container, sandbox.Path())
		closeNS(sandbox)
	}
	if _, err := n.run(call{verb: "GC", stdin: n.config(nil)}); err != nil {
		t.Fatal(err)
	}
	n.wantNoLeftovers()
	t.Logf("of %d, %v were killed before they ended, by delays of 0.1 to 1.1 times %v", rounds, killed, took)
	if killed["ADD"] == 0 || killed["DEL"] == 0 {
		t.Error("none was killed in time: the test shows nothing")
	}
}

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

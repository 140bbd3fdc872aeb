package weavenet

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/test/thread"
)

// others is what somebody else has on the host, some of it alike: it must stay as it is.
const others = `
ip link add weave-other type bridge
ip link add vethwe type dummy 2>/dev/null || ip link add vethweb type bridge
iptables -N MYWEAVE
iptables -A FORWARD -i weave -j ACCEPT
iptables -A FORWARD -o weave -j ACCEPT
iptables -A FORWARD -o weave+ -j DROP
iptables -A FORWARD -o weave-other -j DROP
iptables -A FORWARD -o weave -p tcp --dport 25 -j DROP
iptables -A FORWARD -i eth0 -o weave -j DROP
iptables -A FORWARD -o weave -m state --state NEW -j NFLOG --nflog-group 5
iptables -A FORWARD -j MYWEAVE
iptables -A INPUT -d 127.0.0.1/32 -p tcp --dport 6784 -j DROP
iptables -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE
nft add table inet weave
`

// left is what Weave Net makes on a host by its router and its policy controller (net/bridge.go, net/expose.go, npc/iptables, version
// 2.8.1, as iptables-save shows it), as far as kernels without Open vSwitch can have it.
const left = `
ip link add weave address 8a:5c:11:22:33:44 type bridge
ip link add vethwe-bridge type veth peer name vethwe-datapath
ip link set vethwe-bridge master weave
ip link add vxlan-6784 type vxlan external dstport 6784
ip link set weave up
ip address add 10.32.0.1/12 dev weave
iptables -N WEAVE-NPC
iptables -N WEAVE-NPC-DEFAULT
iptables -N WEAVE-NPC-INGRESS
iptables -N WEAVE-NPC-EGRESS
iptables -N WEAVE-NPC-EGRESS-ACCEPT
iptables -N WEAVE-NPC-EGRESS-CUSTOM
iptables -N WEAVE-NPC-EGRESS-DEFAULT
iptables -N WEAVE-EXPOSE
iptables -A WEAVE-NPC -m state --state RELATED,ESTABLISHED -j ACCEPT
iptables -A WEAVE-NPC -d 224.0.0.0/4 -j ACCEPT
iptables -A WEAVE-NPC -m state --state NEW -j WEAVE-NPC-DEFAULT
iptables -A WEAVE-NPC -m state --state NEW -j WEAVE-NPC-INGRESS
iptables -A WEAVE-NPC-EGRESS-ACCEPT -j MARK --set-xmark 0x40000/0x40000
iptables -A WEAVE-NPC-EGRESS -m addrtype --dst-type LOCAL -j RETURN
iptables -A WEAVE-NPC-EGRESS -m state --state NEW -j WEAVE-NPC-EGRESS-DEFAULT
iptables -A WEAVE-NPC-EGRESS -m state --state NEW -m mark ! --mark 0x40000/0x40000 -j WEAVE-NPC-EGRESS-CUSTOM
iptables -A WEAVE-NPC-EGRESS -m mark ! --mark 0x40000/0x40000 -j DROP
iptables -I FORWARD 1 -i weave -m comment --comment "NOTE: this must go before '-j KUBE-FORWARD'" -j WEAVE-NPC-EGRESS
iptables -I FORWARD 2 -o weave -m comment --comment "NOTE: this must go before '-j KUBE-FORWARD'" -j WEAVE-NPC
iptables -I FORWARD 3 -o weave -m state --state NEW -j NFLOG --nflog-group 86
iptables -I FORWARD 4 -o weave -j DROP
iptables -I FORWARD 5 -i weave ! -o weave -j ACCEPT
iptables -I FORWARD 6 -o weave -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -I FORWARD 7 -i docker0 -o weave -j DROP
iptables -I FORWARD 8 -i weave -o weave -j ACCEPT
iptables -I FORWARD 9 -o weave -j WEAVE-EXPOSE
iptables -I INPUT 1 -i weave -j WEAVE-NPC-EGRESS
iptables -I INPUT 2 -d 127.0.0.1/32 -p tcp -m tcp --dport 6784 -m addrtype ! --src-type LOCAL -m conntrack ! --ctstate RELATED,ESTABLISHED -m comment --comment "Block non-local access to Weave Net control port" -j DROP
iptables -t nat -N WEAVE
iptables -t nat -A WEAVE -m set --match-set weaver-no-masq-local dst -m comment --comment "Prevent SNAT to locally running containers" -j RETURN 2>/dev/null || true
iptables -t nat -A WEAVE -s 10.32.0.0/12 -d 224.0.0.0/4 -j RETURN
iptables -t nat -A WEAVE ! -s 10.32.0.0/12 -d 10.32.0.0/12 -j MASQUERADE
iptables -t nat -A WEAVE -s 10.32.0.0/12 ! -d 10.32.0.0/12 -j MASQUERADE
iptables -t nat -A POSTROUTING -j WEAVE
iptables -t mangle -N WEAVE-IPSEC-IN
iptables -t mangle -A INPUT -j WEAVE-IPSEC-IN
`

// host is a network namespace and directories that stand for a host's.
type host struct {
	t *testing.T
	Config
}

// onHost runs a test on such a host, which somebody else has things on already. It needs root.
func onHost(t *testing.T, test func(h *host)) {
	t.Helper()
	dir := t.TempDir()
	h := &host{t, Config{ConfDir: filepath.Join(dir, "net.d"), BinDir: filepath.Join(dir, "bin"), StateDir: filepath.Join(dir, "weave")}}
	thread.Do(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("this test needs root: %v", err)
			return
		}
		h.run(others)
		h.files(map[string]string{
			"net.d/10-other.conflist": `{"plugins": [{"type": "weave-net"}]}`, "net.d/05-weaveguard.conflist": "{}", "bin/weaveguard": "", "bin/bridge": "", "bin/weave-mine": "",
		})
		if !t.Failed() {
			test(h)
		}
	})
}

func (h *host) run(script string) string {
	h.t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		h.t.Errorf("%v: %s", err, out)
	}
	return string(out)
}

func (h *host) files(files map[string]string) {
	h.t.Helper()
	for path, text := range files {
		path = filepath.Join(filepath.Dir(h.ConfDir), path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			h.t.Error(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			h.t.Error(err)
		}
	}
}

// weaveNet leaves on the host what Weave Net makes.
func (h *host) weaveNet() {
	h.t.Helper()
	h.run(left)
	if h.hasSets() {
		for name, kind := range map[string]string{"weave-;rGqyMIl1HN^cfDki~Z$3]6!N": "hash:ip", "weave-k?Z;25^M}|1s7P3|H9i;*;MhG": "hash:ip"} {
			if err := netlink.IpsetCreate(name, kind, netlink.IpsetCreateOptions{}); err != nil {
				h.t.Errorf("making an ipset: %v", err)
			}
		}
		h.run(`iptables -A WEAVE-NPC-DEFAULT -m set --match-set 'weave-;rGqyMIl1HN^cfDki~Z$3]6!N' dst -j ACCEPT`)
	}
	h.files(map[string]string{
		"net.d/10-weave.conflist": `{"cniVersion": "0.3.0", "name": "weave", "plugins": [{"name": "weave", "type": "weave-net", "hairpinMode": true}]}`,
		"bin/weave-plugin-2.8.1":  "", "weave/weave-netdata.db": "x",
	})
	for _, link := range []string{"weave-net", "weave-ipam"} {
		if err := os.Symlink("weave-plugin-2.8.1", filepath.Join(h.BinDir, link)); err != nil {
			h.t.Error(err)
		}
	}
}

func (h *host) hasSets() bool {
	_, err := netlink.IpsetListAll()
	return err == nil
}

var changing = regexp.MustCompile(`(?m)^#.*$|\[\d+:\d+\]| (qlen|qdisc|state|mode) \S+`)

// state is all that the host has, but for numbers that change by themselves.
func (h *host) state() string {
	h.t.Helper()
	text := h.run("for t in filter nat mangle; do iptables-save -t $t; done; nft list tables | grep -v 'ip mangle'; ip -brief link | cut -d' ' -f1; find " +
		filepath.Dir(h.ConfDir) + " | sort")
	text = changing.ReplaceAllString(text, "")
	sets, _ := netlink.IpsetListAll()
	for _, s := range sets {
		text += s.SetName + "\n"
	}
	return text
}

func TestClean(t *testing.T) {
	t.Parallel()
	onHost(t, func(h *host) {
		h.run("iptables -t mangle -L >/dev/null")
		if h.hasSets() {
			if err := netlink.IpsetCreate("weaver-mine", "hash:ip", netlink.IpsetCreateOptions{}); err != nil {
				t.Error(err)
			}
		}
		before := h.state()
		h.weaveNet()
		done, err := Clean(t.Context(), h.Config)
		if err != nil {
			t.Errorf("%v, after %q", err, done)
		}
		if after := h.state(); after != before {
			t.Errorf("what is left isn't what was there before Weave Net; it was\n%s\nand is\n%s", before, after)
		}
		text := strings.Join(done.Removed, "\n")
		for _, want := range []string{"the interface weave", "the interface vethwe-bridge", "the interface vxlan-6784", "the chain WEAVE-NPC of the table filter",
			"the chain WEAVE of the table nat", "the chain WEAVE-IPSEC-IN of the table mangle", "13 rules", "10-weave.conflist", "weave-plugin-2.8.1", "weave-netdata.db"} {
			if !strings.Contains(text, want) {
				t.Errorf("it tells of\n%s\nwant of %q too", text, want)
			}
		}
		if again, err := Clean(t.Context(), h.Config); err != nil || len(again.Removed) > 0 {
			t.Errorf("the second time it removes %q, %v", again.Removed, err)
		}
	})
}

// What looks like Weave Net's, and isn't quite, stays, and is told of where it matters.
func TestCleanLeavesWhatIsNotQuite(t *testing.T) {
	t.Parallel()
	onHost(t, func(h *host) {
		h.run("ip link add weave type bridge; ip link set weave alias weaveguard; ip link add datapath type bridge")
		h.files(map[string]string{"net.d/10-weave.conflist": `{"plugins": [{"type": "bridge"}]}`, "weave/notes": "mine", "weave/weave-netdata.db": "x"})
		before := h.state()
		done, err := Clean(t.Context(), h.Config)
		if err != nil {
			t.Error(err)
		}
		if want := strings.ReplaceAll(before, filepath.Join(h.StateDir, "weave-netdata.db")+"\n", ""); h.state() != want {
			t.Errorf("it left\n%s\nwant\n%s", h.state(), want)
		}
		if len(done.Left) < 2 || !strings.Contains(strings.Join(done.Left, "\n"), h.StateDir+", which has other files too") {
			t.Errorf("it says that it left %q, want the configuration and the directory", done.Left)
		}
	})
}

// While Weave Net runs, or pods are attached to it, everything stays.
func TestCleanRefuses(t *testing.T) {
	t.Parallel()
	onHost(t, func(h *host) {
		h.weaveNet()
		h.run("ip link add vethwepl1a2b3c4 type veth peer name inside; ip link set vethwepl1a2b3c4 master weave")
		before := h.state()
		refuses := func(want string) {
			t.Helper()
			if done, err := Clean(t.Context(), h.Config); err == nil || !strings.Contains(err.Error(), want) || len(done.Removed) > 0 {
				t.Errorf("it ends with %v and removed %q, want an error with %q", err, done.Removed, want)
			}
			if after := h.state(); after != before {
				t.Errorf("it changed\n%s\nto\n%s", before, after)
			}
		}
		refuses("1 pods or containers are still attached to Weave Net on this host (vethwepl1a2b3c4): drain the node")
		h.run("ip link delete vethwepl1a2b3c4")
		before = h.state()
		h.run("ip link set lo up")
		listener, err := net.Listen("tcp4", "127.0.0.1:6784") // on this thread, so in this namespace
		if err != nil {
			t.Error(err)
			return
		}
		defer listener.Close()
		refuses("somebody listens on its TCP port 6784): end it on this node first")
	})
}

func TestPrograms(t *testing.T) {
	if !slices.Contains(programs, "weaver") {
		t.Error("the daemon isn't among the programs")
	}
	dir := t.TempDir()
	weaver := filepath.Join(dir, "weaver")
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(weaver, sleep, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(weaver, "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if name, err := running(); err != nil || !strings.HasSuffix(name, "is weaver") {
		t.Errorf("what runs is %q, %v, want the weaver", name, err)
	}
}

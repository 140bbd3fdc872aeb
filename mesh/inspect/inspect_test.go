package inspect

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weaveguard/weaveguard/mesh/doctor"
)

func write(t *testing.T, root string, files map[string]string) {
	t.Helper()
	for path, text := range files {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	write(t, root, map[string]string{
		"/proc/sys/net/ipv4/ip_forward":                "0\n",
		"/proc/sys/net/ipv4/conf/weave-wg2/rp_filter":  "1\n",
		"/proc/sys/net/bridge/bridge-nf-call-iptables": "1\n",
		"/proc/sys/net/ipv4/conf/eth0/rp_filter":       "1\n",
		"/proc/net/ip_tables_names":                    "nat\nfilter\n",
		"/etc/cni/net.d/10-weave.conflist":             "{}",
		"/etc/cni/net.d/05-weaveguard.conflist":        "{}",
		"/etc/cni/net.d/notes.txt":                     "",
		"/opt/cni/bin/weave-net":                       "",
		"/opt/cni/bin/weave-plugin-2.8.1":              "",
		"/opt/cni/bin/weaveguard":                      "",
		"/opt/cni/bin/bridge":                          "",
		"/var/lib/weave/weave-netdata.db":              "",
		"/run/flannel/subnet.env":                      "",
	})
	c := Config{Root: root, ConfDir: "/etc/cni/net.d", BinDir: "/opt/cni/bin"}
	settings, err := c.settings()
	if err != nil || len(settings) != 3 || settings["net/ipv4/ip_forward"] != "0" || settings["net/ipv4/conf/weave-wg2/rp_filter"] != "1" {
		t.Errorf("settings: %v, %v", settings, err)
	}
	configs, err := c.configs()
	if want := []string{"05-weaveguard.conflist", "10-weave.conflist"}; err != nil || !slices.Equal(configs, want) {
		t.Errorf("configurations: %q, %v; want %q", configs, err, want)
	}
	files := c.files()
	slices.Sort(files)
	if want := []string{"/etc/cni/net.d/10-weave.conflist", "/etc/cni/net.d/notes.txt", "/opt/cni/bin/weave-net", "/opt/cni/bin/weave-plugin-2.8.1",
		"/run/flannel/subnet.env", "/var/lib/weave"}; !slices.Equal(files, want) {
		t.Errorf("files: %q, want %q", files, want)
	}
	if err := c.legacyTables(); err == nil || !strings.Contains(err.Error(), "iptables-legacy -S FORWARD") {
		t.Errorf("older tables: %v", err)
	}
	if got, err := c.tun(false); got != doctor.No || err != nil {
		t.Errorf("/dev/net/tun: %v, %v; want no", got, err)
	}
	if got, err := c.tun(true); got != doctor.Unknown || err == nil {
		t.Errorf("/dev/net/tun in a pod: %v, %v; want that it isn't known", got, err)
	}
	empty := Config{Root: t.TempDir(), ConfDir: "/etc/cni/net.d"}
	if configs, err := empty.configs(); err != nil || configs == nil || len(configs) > 0 || empty.legacyTables() != nil || len(empty.files()) > 0 {
		t.Errorf("of an empty root: %v, %v", configs, err)
	}
}

// What is tried leaves this process where it was. This test needs root.
func TestTryRules(t *testing.T) {
	t.Parallel()
	const self = "/proc/self/ns/net"
	before, err := os.Readlink(self)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if rules, bridge, err := tryRules(); rules != doctor.Yes || bridge != doctor.Yes || err != nil {
			t.Fatalf("nftables: %v, for bridges %v, %v; want yes", rules, bridge, err)
		}
	}
	if after, err := os.Readlink(self); err != nil || after != before {
		t.Errorf("the process is in %s now, and was in %s (%v)", after, before, err)
	}
}

func TestChains(t *testing.T) {
	t.Parallel()
	onThread(func() {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Errorf("this test needs root: %v", err)
			return
		}
		const tables = `add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }
add chain ip filter WEAVE-NPC; add chain ip filter INPUT { type filter hook input priority 0; policy drop; }
add table inet mine; add chain inet mine forward { type filter hook forward priority 0; policy accept; }
add table inet weaveguard; add chain inet weaveguard forward { type filter hook forward priority 0; policy drop; }`
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(tables)
		if out, err := nft.CombinedOutput(); err != nil {
			t.Errorf("nft: %v: %s", err, out)
			return
		}
		got, err := chains()
		want := []doctor.Chain{
			{Family: "ip", Table: "filter", Name: "FORWARD", Forwards: true, Drops: true}, {Family: "ip", Table: "filter", Name: "WEAVE-NPC"},
			{Family: "ip", Table: "filter", Name: "INPUT"}, {Family: "inet", Table: "mine", Name: "forward", Forwards: true},
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("chains: %+v, %v; want %+v", got, err, want)
		}
	})
}

// insideEnv is set where TestSockets runs in a network of its own, in which no other test holds the ports.
const insideEnv = "WEAVEGUARD_TEST_INSIDE"

// This test needs root.
func TestSockets(t *testing.T) {
	if os.Getenv(insideEnv) == "" {
		t.Parallel()
		inside := exec.CommandContext(t.Context(), "unshare", "--net", "sh", "-ec", `ip link set lo up; exec "$0" -test.run '^TestSockets$'`, "/proc/self/exe")
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		inside.Args[len(inside.Args)-1] = self
		inside.Env = append(os.Environ(), insideEnv+"=yes")
		if out, err := inside.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{Port: 51823})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	local, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 51822})
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	listener, err := net.Listen("tcp", ":6783")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	all, err := sockets()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(all, doctor.Socket{Protocol: "tcp", Port: 6783, Program: "inspect.test", PID: os.Getpid()}) {
		t.Errorf("the sockets are %+v, want this test's on TCP port 6783", all)
	}
	found := slices.ContainsFunc(all, func(s doctor.Socket) bool {
		return s == doctor.Socket{Protocol: "udp", Port: 51823, Program: "inspect.test", PID: os.Getpid()}
	})
	if !found || slices.ContainsFunc(all, func(s doctor.Socket) bool { return s.Port == 51822 && s.PID == os.Getpid() }) {
		t.Errorf("the sockets are %+v, want this test's on port 51823, and not the one of loopback", all)
	}
}

// This test needs root.
func TestEchoes(t *testing.T) {
	t.Parallel()
	got := Echoes(t.Context(), map[string]netip.Addr{
		"here": netip.MustParseAddr("127.0.0.1"), "nobody": netip.MustParseAddr("192.0.2.77"), "also here": netip.MustParseAddr("::1"),
	})
	if got["here"] != doctor.Yes || got["nobody"] != doctor.No || got["also here"] != doctor.Yes {
		t.Errorf("%v, want that 127.0.0.1 and ::1 answer, and 192.0.2.77 doesn't", got)
	}
}

func TestHost(t *testing.T) {
	h := Host(Config{})
	if h.Kernel == "" || h.Rules != doctor.Yes || h.WireGuard == doctor.Unknown || h.Settings["net/ipv4/ip_forward"] == "" || h.ConfDir == "" {
		t.Errorf("%+v", h)
	}
	t.Setenv(podEnv, "10.96.0.1")
	if h := Host(Config{}); !h.Pod || !slices.ContainsFunc(h.Unseen, func(text string) bool { return strings.Contains(text, "run this on the node") }) {
		t.Errorf("in a pod: %+v", h)
	}
}

// A socket of the kernel's WireGuard is its device's, though no process has it, and whatever its inode is.
func TestWhoHoldsAPort(t *testing.T) {
	t.Parallel()
	devices := map[uint16]string{51820: "weave-wg0", 51821: "wg0"}
	programs := map[uint64]doctor.Socket{0: {Program: "none"}, 7: {Program: "weaveguard-agen", PID: 70}, 8: {Program: "nc", PID: 80}}
	for name, c := range map[string]struct {
		protocol string
		port     uint16
		inode    uint64
		want     doctor.Socket
	}{
		"our device":             {"udp", 51820, 4711, doctor.Socket{Device: "weave-wg0", Own: true}},
		"our device, no inode":   {"udp", 51820, 0, doctor.Socket{Device: "weave-wg0", Own: true}},
		"another device":         {"udp", 51821, 4711, doctor.Socket{Device: "wg0"}},
		"our daemon's device":    {"udp", 51820, 7, doctor.Socket{Program: "weaveguard-agen", PID: 70, Own: true}},
		"a program":              {"udp", 51820, 8, doctor.Socket{Program: "nc", PID: 80}},
		"a program isn't seen":   {"udp", 51822, 4711, doctor.Socket{}},
		"TCP on the same number": {"tcp", 51820, 4711, doctor.Socket{}},
	} {
		c.want.Protocol, c.want.Port = c.protocol, c.port
		h := holder{doctor.Socket{Protocol: c.protocol, Port: c.port}, c.inode}
		if got := h.held(devices, programs); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

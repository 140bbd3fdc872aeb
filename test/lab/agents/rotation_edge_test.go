package agents_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/mesh/tunnel/userspace"
	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// A peer that is cut off for the whole rotation doesn't hold it up for ever, and comes back by itself after the old key
// is gone.
func TestRotationWithoutAPeer(t *testing.T) {
	m := agents.New(t, 3)
	silent := 180 * time.Second
	if !full.Wanted() {
		silent = 5 * time.Second // with packets all the time, that is as sure
	}
	for _, n := range m.Nodes {
		n.Args = []string{"--silent-after", silent.String()}
		n.Start(t)
	}
	m.WaitUp(t, time.Minute)
	pods := podsOn(t, m.Nodes, "pod")
	n, away := m.Nodes[0], m.Nodes[2]
	others := flow(t, pods[0], pods[1], "others")
	flow(t, pods[2], pods[0], "away").Send(t, 100)
	if err := away.Cut(); err != nil {
		t.Fatal(err)
	}
	n.Rotate(t)
	took := n.AwaitKey(t, 1, silent+rotationDeadline)
	if took < silent-2*time.Second { // it was heard until shortly before
		t.Errorf("the old key was given up after %s, and the peer may still have used it for %s", took, silent)
	}
	if err := away.Heal(); err != nil {
		t.Fatal(err)
	}
	back := lab.Eventually(t, 10*time.Second, "the peer is back", func() error {
		_, err := pods[2].Run(t.Context(), "ping", "-c", "1", "-W", "1", pods[0].Addr.String())
		return err
	})
	t.Logf("the rotation took %.1f s without the peer, which was back %.1f s after it could be", took.Seconds(), back.Seconds())
	m.WaitUp(t, time.Minute)
	if report := others.Stop(t); report.Lost() != 0 {
		t.Errorf("lost between the others: %s", report)
	}
}

// After a rotation the old key is of no use to whoever has a copy of it, and it is nowhere on the node any more.
func TestOldKeyIsGone(t *testing.T) {
	m := agents.Up(t, 2)
	n, peer := m.Nodes[0], m.Nodes[1]
	old := n.Keys(t).Generations[0].PrivateKey
	public := strings.TrimSpace(n.MustRun(t, "wg", "show", contract.DeviceName(0), "public-key"))
	thief := newThief(t, m)
	n.Rotate(t)
	n.AwaitKey(t, 1, rotationDeadline)
	lab.Eventually(t, 5*time.Second, "the peer has heard that the old key is gone", func() error {
		if out := peer.MustRun(t, "wg", "show", "all", "peers"); strings.Contains(out, public) {
			return fmt.Errorf("wg shows\n%s", out)
		}
		return nil
	})
	s, err := peer.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	towards := s.Generations[0].PublicKey.String()
	for port := uint16(contract.BasePort); port < contract.BasePort+contract.MaxDevices; port++ {
		if thief.handshake(t, old, towards, netip.AddrPortFrom(peer.Addr4, port), 2*time.Second) {
			t.Errorf("a handshake with the old key was answered at port %d", port)
		}
	}
	t.Run("on disk", func(t *testing.T) { nowhereOnDisk(t, n, old) })
	t.Run("in the tunnels", func(t *testing.T) {
		if out := n.MustRun(t, "wg", "show", "all", "dump"); strings.Contains(out, old) {
			t.Error("a tunnel device has the old key")
		}
	})
	t.Run("in memory", func(t *testing.T) { nowhereInMemory(t, n, old) })
	// The same with the key in use is answered: the thief does it right.
	stolen := n.Keys(t).Generations[0].PrivateKey
	port := netip.AddrPortFrom(peer.Addr4, contract.BasePort+1) // of a node that never rotated, towards generation 1
	if !thief.handshake(t, stolen, towards, port, 20*time.Second) {
		t.Error("a handshake with the key in use wasn't answered: this test can't tell")
	}
}

// thief is a host that has somebody's key.
type thief struct {
	*agents.Node
	kernel bool
}

func newThief(t *testing.T, m *agents.Mesh) *thief {
	t.Helper()
	h, err := m.Lab.AddHost()
	if err != nil {
		t.Fatal(err)
	}
	k := &thief{m.Adopt(h), m.Kernel}
	m.Nodes = m.Nodes[:len(m.Nodes)-1] // it is no node of the mesh
	if k.kernel {
		k.MustRun(t, "ip", "link", "add", contract.DeviceName(0), "type", "wireguard")
	} else {
		k.StartUserspace(t)
		daemon := userspace.NewClient(fmt.Sprintf("/proc/%d/root%s/userspace.sock", k.InitPID(), contract.RunDir))
		lab.Eventually(t, 10*time.Second, "the thief has a device", func() error {
			return daemon.Make(t.Context(), contract.DeviceName(0), 1420)
		})
	}
	k.MustRun(t, "ip", "link", "set", contract.DeviceName(0), "up")
	return k
}

// handshake tries to get a session with a peer by a private key, and reports whether it got one in time.
func (k *thief) handshake(t *testing.T, private, peer string, at netip.AddrPort, patience time.Duration) bool {
	t.Helper()
	device := contract.DeviceName(0)
	k.MustRun(t, "sh", "-c", "umask 077; echo "+private+" >/run/stolen; wg set "+device+" private-key /run/stolen; rm /run/stolen")
	k.MustRun(t, "wg", "set", device, "peer", peer, "endpoint", at.String(), "persistent-keepalive", "1", "allowed-ips", "10.32.0.0/12")
	defer k.MustRun(t, "wg", "set", device, "peer", peer, "remove")
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		fields := strings.Fields(k.MustRun(t, "wg", "show", device, "latest-handshakes"))
		if len(fields) == 2 && fields[1] != "0" {
			return true
		}
		select {
		case <-t.Context().Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
	return false
}

// forms are all in which a key may lie around.
func forms(t *testing.T, key string) map[string][]byte {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(key)
	if err != nil || len(raw) != 32 {
		t.Fatalf("a private key has %d bytes (%v)", len(raw), err)
	}
	return map[string][]byte{"base64": []byte(key), "hex": []byte(hex.EncodeToString(raw)), "bytes": raw}
}

func nowhereOnDisk(t *testing.T, n *agents.Node, key string) {
	t.Helper()
	looked := 0
	for _, dir := range []string{contract.StateDir, contract.RunDir, "/etc"} {
		root := fmt.Sprintf("/proc/%d/root%s", n.InitPID(), dir)
		err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(path)
			looked++
			for form, text := range forms(t, key) {
				if bytes.Contains(content, text) {
					t.Errorf("%s has the old key as %s", path, form)
				}
			}
			return err
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Error(err)
		}
	}
	if looked < 3 {
		t.Errorf("only %d files were looked into", looked)
	}
}

// nowhereInMemory looks into the processes that had the key. What they have freed is erased as the garbage collector
// finds it, which it does when the key goes, and now and then.
func nowhereInMemory(t *testing.T, n *agents.Node, key string) {
	t.Helper()
	processes := map[string]*lab.Process{"agent": n.Agent}
	if n.Userspace != nil {
		processes["userspace daemon"] = n.Userspace
	}
	for name, process := range processes {
		for form, text := range forms(t, key) {
			lab.Eventually(t, 10*time.Second, "the "+name+" has no copy of the old key as "+form+" in its memory", func() error {
				found, err := inMemory(t.Context(), process.PID(), text)
				if err == nil && found > 0 {
					err = fmt.Errorf("it has %d", found)
				}
				return err
			})
		}
	}
	current := forms(t, n.Keys(t).Generations[0].PrivateKey)["bytes"]
	if found, err := inMemory(t.Context(), n.Agent.PID(), current); err != nil || found == 0 {
		t.Errorf("the agent has no copy of the key in use in its memory (%v): this test can't tell", err)
	}
}

// inMemory counts how often text is in the writable memory of a process.
func inMemory(ctx context.Context, pid int, text []byte) (int, error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, err
	}
	defer memory.Close()
	found := 0
	for line := range strings.Lines(string(maps)) {
		var from, to int64
		var mode string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &mode); err != nil || !strings.HasPrefix(mode, "rw") {
			continue
		}
		const chunk = 1 << 20
		buf := make([]byte, chunk+len(text))
		for at := from; at < to && ctx.Err() == nil; at += chunk {
			read, _ := memory.ReadAt(buf[:min(int64(len(buf)), to-at)], at) // a hole reads as nothing
			found += bytes.Count(buf[:read], text)
		}
	}
	return found, ctx.Err()
}

// For the record: what others do, changing the key in place, loses packets. Here the peer learns of the new key as fast
// as gossip would tell it.
func TestNaiveRotationLosesPackets(t *testing.T) {
	m := agents.Up(t, 2)
	a, b := m.Nodes[0], m.Nodes[1]
	to := b.AddPod(t, "pod")
	f := lab.StartFlow(t, lab.FlowOptions{From: a.AddPod(t, "pod"), To: to, Addr: netip.AddrPortFrom(to.Addr, flowPort), Rate: heavy().large, Size: largeSize})
	f.Send(t, uint64(heavy().large))
	for _, n := range m.Nodes {
		if err := n.Agent.Kill(); err != nil { // it would put things right
			t.Fatal(err)
		}
	}
	const device, gossip = "weave-wg0", "0.2"
	private := strings.TrimSpace(a.MustRun(t, "wg", "genkey"))
	old := strings.TrimSpace(a.MustRun(t, "wg", "show", device, "public-key"))
	a.MustRun(t, "sh", "-c", "umask 077; echo "+private+" >/run/next; wg pubkey </run/next >/run/public; wg set "+device+" private-key /run/next")
	public := strings.TrimSpace(a.MustRun(t, "cat", "/run/public"))
	b.MustRun(t, "sh", "-c", fmt.Sprintf("sleep %s; wg set %s peer %s remove peer %s endpoint %s:51820 allowed-ips %s persistent-keepalive 25",
		gossip, device, old, public, a.Addr4, a.CIDR))
	f.Send(t, uint64(3*heavy().large))
	report := f.Stop(t)
	t.Logf("changing the key in place: %s", report)
	if report.Lost() == 0 {
		t.Error("nothing was lost: this way of counting wouldn't see a loss")
	}
}

// How long a rotation takes grows with the mesh. Three nodes have 10 s.
func TestRotationTime(t *testing.T) {
	sizes := []int{3, 10}
	if full.Wanted() {
		sizes = append(sizes, 30)
	}
	for _, size := range sizes {
		t.Run(fmt.Sprintf("%d nodes", size), func(t *testing.T) {
			m := agents.Up(t, size)
			m.Nodes[0].Rotate(t)
			one := m.Nodes[0].AwaitKey(t, 1, rotationDeadline)
			begin := time.Now()
			for _, n := range m.Nodes {
				n.Rotate(t)
			}
			for i, n := range m.Nodes {
				generation := uint32(1)
				if i == 0 {
					generation = 2
				}
				n.AwaitKey(t, generation, 5*time.Minute)
			}
			t.Logf("of %d nodes: one rotates in %.1f s, all at once in %.1f s", size, one.Seconds(), time.Since(begin).Seconds())
			if size == 3 && one > 10*time.Second {
				t.Errorf("a rotation of three nodes took %s, want 10 s at most", one)
			}
		})
	}
}

package cni_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containernetworking/plugins/pkg/ns"

	"github.com/weaveguard/weaveguard/cni/store"
)

// samples is how often each plugin runs at least, so that the 99th percentile isn't just the longest.
const samples = 300

// inUse is how many addresses are taken already in one of the benchmarks.
const inUse = 5000

// attacher is a plugin with its configuration.
type attacher struct {
	name    string
	program string
	stdin   []byte

	mu       sync.Mutex
	times    map[string][]time.Duration // by verb
	peak     int64                      // resident memory of the largest run in KiB
	sequence int
}

// reference are bridge and host-local of the CNI project, as close to what ours does as they can be configured.
func reference(n *node) *attacher {
	stdin, err := json.Marshal(map[string]any{
		"cniVersion": "1.0.0", "name": "reference", "type": "bridge", "bridge": "cni0", "isGateway": true, "mtu": 1420,
		"ipam": map[string]any{
			"type": "host-local", "dataDir": filepath.Join(n.dataDir, "host-local"),
			"ranges": [][]map[string]string{{{"subnet": "10.99.0.0/16"}}}, "routes": []map[string]string{{"dst": "0.0.0.0/0"}},
		},
	})
	if err != nil {
		n.Fatal(err)
	}
	buildPlugins(n, "main/bridge", "ipam/host-local")
	return &attacher{name: "reference", program: "bridge", stdin: stdin, times: map[string][]time.Duration{}}
}

// ours is the plugin with the guard that the agent makes.
func ours(n *node, dataDir string) *attacher {
	return &attacher{name: "ours", program: "weaveguard", times: map[string][]time.Duration{},
		stdin: n.config(map[string]any{"subnets": []string{"10.32.0.0/16"}, "mtu": 1420, "dataDir": dataDir})}
}

// fill takes addresses as pods would that were attached before.
func fill(n *node, dataDir string, subnet netip.Prefix) {
	n.Helper()
	s, err := store.Open(dataDir)
	if err != nil {
		n.Fatal(err)
	}
	tx, err := s.Lock(n.Context())
	if err != nil {
		n.Fatal(err)
	}
	address := subnet.Addr().Next()
	for i := range inUse {
		address = address.Next()
		id := store.ID{ContainerID: fmt.Sprint("filler", i), IfName: "eth0"}
		if ok, err := tx.Reserve(id, address); err != nil || !ok {
			n.Fatal(ok, err)
		}
		err := tx.Put(store.Attachment{ID: id, Network: "weaveguard", Bridge: "weave", HostIfName: id.HostInterface(),
			Addresses: []netip.Addr{address}, MTU: 1420, Created: time.Now()})
		if err != nil {
			n.Fatal(err)
		}
	}
	if err := tx.Unlock(); err != nil {
		n.Fatal(err)
	}
}

// run runs a verb, and keeps how long it took.
func (a *attacher) run(n *node, verb, container string, sandbox ns.NetNS) {
	n.Helper()
	cmd := exec.Command(filepath.Join(binDir, a.program))
	cmd.Env = []string{"CNI_COMMAND=" + verb, "CNI_CONTAINERID=" + container, "CNI_NETNS=" + sandbox.Path(), "CNI_IFNAME=eth0",
		"CNI_PATH=" + binDir}
	cmd.Stdin = bytes.NewReader(a.stdin)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	var took time.Duration
	err := n.ns.Do(func(ns.NetNS) error {
		began := time.Now()
		err := cmd.Run()
		took = time.Since(began)
		return err
	})
	if err != nil {
		n.Errorf("%s of %s: %v\n%s", verb, a.name, err, out.String())
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.times[verb] = append(a.times[verb], took)
	a.peak = max(a.peak, cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
}

// round attaches so many sandboxes at once, and detaches them.
func (a *attacher) round(n *node, sandboxes []ns.NetNS) {
	n.Helper()
	a.sequence++
	for _, verb := range []string{"ADD", "DEL"} {
		var running sync.WaitGroup
		for i, sandbox := range sandboxes {
			running.Go(func() { a.run(n, verb, fmt.Sprintf("%s-%d-%d", a.name, a.sequence, i), sandbox) })
		}
		running.Wait()
	}
}

// percentile of the times of a verb.
func (a *attacher) percentile(verb string, p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(a.times[verb]))
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

// versus compares two plugins round by round, so that what slows one down slows the other down as well.
func versus(b *testing.B, n *node, at int, one, other *attacher) {
	sandboxes := make([]ns.NetNS, at)
	for i := range sandboxes {
		sandboxes[i] = newNS(b)
	}
	one.round(n, sandboxes) // makes the bridge
	other.round(n, sandboxes)
	clear(one.times)
	clear(other.times)
	for b.Loop() {
		for range samples / at {
			one.round(n, sandboxes)
			other.round(n, sandboxes)
		}
	}
	if b.Failed() {
		return
	}
	for _, verb := range []string{"ADD", "DEL"} {
		for name, p := range map[string]float64{"p50": 0.5, "p99": 0.99} {
			x, y := one.percentile(verb, p), other.percentile(verb, p)
			b.ReportMetric(float64(x)/float64(y), verb+"-"+name+"-ratio")
			b.ReportMetric(float64(x.Microseconds())/1000, verb+"-"+name+"-ms")
		}
	}
	b.ReportMetric(float64(one.peak)/1024, "peak-MiB")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkVersusReference reports how long ADD and DEL take, as ratios to those of the CNI project's bridge and
// host-local in the same run.
func BenchmarkVersusReference(b *testing.B) {
	for _, at := range []int{1, 50} {
		b.Run(fmt.Sprintf("%d-at-once", at), func(b *testing.B) {
			n := newNode(b)
			n.guardNode()
			versus(b, n, at, ours(n, n.dataDir), reference(n))
		})
	}
}

// BenchmarkAddressesInUse reports how long ADD and DEL take with 5,000 addresses in use, as ratios to those with none.
func BenchmarkAddressesInUse(b *testing.B) {
	n := newNode(b)
	n.guardNode()
	full := n.dataDir + "-full"
	fill(n, full, netip.MustParsePrefix("10.32.0.0/16"))
	versus(b, n, 1, ours(n, full), ours(n, n.dataDir))
}

package agents_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/internal/handed"
	"github.com/weaveguard/weaveguard/test/lab"
)

// What an agent may take with a crowd of peers: less than the manifest's GOMEMLIMIT, and half a processor.
const (
	crowd       = 1000
	crowdMemory = 192 << 20
	crowdCPU    = 0.5
)

// TestFaultCrowd tells two nodes of a thousand others, none of which ever answers: each is a peer whose handshake is tried again
// and again. Pods lose nothing, and the agents stay within their bounds.
func TestFaultCrowd(t *testing.T) {
	r := rob(t)
	if err := r.lair.Agent.Kill(); err != nil {
		t.Fatal(err)
	}
	var state []byte
	for i := range crowd {
		name := fmt.Sprintf("crowd-%d", i)
		cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(33 + i>>8), byte(i), 0}), 24)
		state = handed.Add(state, name, r.Sign(t, name, cidr))
	}
	file := filepath.Join(r.Lab.Dir(), "crowd")
	if err := os.WriteFile(file, state, 0o600); err != nil {
		t.Fatal(err)
	}
	n := r.Nodes[0]
	o := &outages{Mesh: r.Mesh, pods: podsOn(t, r.Nodes[:2], "pod")}
	o.row(t, 19, fmt.Sprintf("%d nodes are told of that never answer", crowd), "0 lost; an agent takes 192 MiB at most", func(t *testing.T) time.Duration {
		begin := time.Now()
		r.join(t, r.Crowd(r.keyFile(), r.witnesses(), file))
		lab.Eventually(t, 2*time.Minute, "all of them are peers", func() error {
			if peers := strings.Count(n.MustRun(t, "wg", "show", "all", "peers"), "\n"); peers < crowd {
				return fmt.Errorf("%d peers", peers)
			}
			return nil
		})
		took := time.Since(begin)
		before, since := processorTime(t, n.Agent), time.Now()
		most := 0
		lab.Eventually(t, time.Minute, "some time has passed", func() error {
			if most = max(most, resident(t, n.Agent)); time.Since(since) < 10*time.Second {
				return fmt.Errorf("%s", time.Since(since))
			}
			return nil
		})
		share := (processorTime(t, n.Agent) - before).Seconds() / time.Since(since).Seconds()
		o.note = fmt.Sprintf("(the agent takes %d MiB and %.2f of a processor", most>>20, share)
		if n.Userspace != nil {
			o.note += fmt.Sprintf(", the WireGuard daemon %d MiB", resident(t, n.Userspace)>>20)
		}
		o.note += ")"
		if most > crowdMemory || share > crowdCPU && !emulated() {
			t.Errorf("the agent takes %d MiB and %.2f of a processor", most>>20, share)
		}
		return took
	})
}

// processorTime is what a process has used so far (proc(5), /proc/pid/stat, utime and stime).
func processorTime(t *testing.T, p *lab.Process) time.Duration {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(after)
	var user, system int64
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		t.Fatal(err)
	}
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}

package agents_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/internal/scrape"
	"github.com/weaveguard/weaveguard/test/lab"
)

// usage is what programs use that may leak.
type usage struct{ goroutines, descriptors, daemonDescriptors, resident, daemonResident int }

// usage is that of the first node's programs.
func (s *soak) usage(t *testing.T) (u usage) {
	t.Helper()
	n := s.Nodes[0]
	metrics := scrape.Command(scrape.Local(contract.MetricsPort), "/metrics")
	for line := range strings.Lines(n.MustRun(t, metrics[0], metrics[1:]...)) {
		if text, found := strings.CutPrefix(line, "go_goroutines "); found {
			u.goroutines, _ = strconv.Atoi(strings.TrimSpace(text))
		}
	}
	if u.goroutines == 0 {
		t.Fatal("the metrics don't say how many goroutines there are")
	}
	u.descriptors, u.resident = descriptors(t, n.Agent), resident(t, n.Agent)
	if n.Userspace != nil {
		u.daemonDescriptors, u.daemonResident = descriptors(t, n.Userspace), resident(t, n.Userspace)
	}
	return u
}

// exceeds returns an error if it is more than what was used before, and what may vary.
func (u usage) exceeds(before usage) error {
	const few, much = 10, 64 << 20
	if u.goroutines > before.goroutines+few || u.descriptors > before.descriptors+few ||
		u.daemonDescriptors > before.daemonDescriptors+few || u.resident > before.resident+much || u.daemonResident > before.daemonResident+much {
		return fmt.Errorf("the first node's programs use %v, and used %v at first", u, before)
	}
	return nil
}

// soakGrowth is by how much a program's memory may be more in the last third of a soak than in the first, in bytes.
const soakGrowth = 16 << 20

// grown returns an error if programs take more memory in the last third of the samples, at their middle, than in the first, of which
// the first half doesn't count: they warm up. Of a few samples nothing can be said.
func grown(samples []usage) error {
	third := len(samples) / 3
	if third < 4 {
		return nil
	}
	first, last := samples[third/2:third], samples[len(samples)-third:]
	for name, of := range map[string]func(usage) int{
		"agent": func(u usage) int { return u.resident }, "WireGuard daemon": func(u usage) int { return u.daemonResident },
	} {
		if before, after := middle(first, of), middle(last, of); after > before+soakGrowth {
			return fmt.Errorf("the first node's %s takes %d MiB at the middle of the last third of the soak, and took %d MiB in the first",
				name, after>>20, before>>20)
		}
	}
	return nil
}

// middle is the median of something of the samples.
func middle(samples []usage, of func(usage) int) int {
	var all []int
	for _, u := range samples {
		all = append(all, of(u))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// A soak in which memory grows without an end is told from one in which programs warm up.
func TestSoakSeesMemoryGrow(t *testing.T) {
	var leaks, warms []usage
	for i := range 60 {
		leaks = append(leaks, usage{resident: (40 + i) << 20})
		warms = append(warms, usage{resident: (40 + min(5*i, 40)) << 20, daemonResident: 20 << 20})
	}
	if grown(leaks) == nil {
		t.Error("a MiB a step isn't found")
	}
	if err := grown(warms); err != nil {
		t.Error(err)
	}
}

func (u usage) String() string {
	return fmt.Sprintf("%d goroutines, %d and %d descriptors, %d and %d MiB",
		u.goroutines, u.descriptors, u.daemonDescriptors, u.resident>>20, u.daemonResident>>20)
}

// descriptors is how many a process has open.
func descriptors(t *testing.T, p *lab.Process) int {
	t.Helper()
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	return len(open)
}

package agents_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/faults"
	"github.com/weaveguard/weaveguard/test/full"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// outages is a mesh of five nodes with a pod on each, whose parts fail one after the other.
type outages struct {
	*agents.Mesh
	pods []*agents.Pod
	next uint16 // port
	note string // on the row that is under way
}

// TestFaultOutages has agents, links and disks fail under traffic between the pods on each two of five nodes. Long outages
// are shortened unless the tests run in full.
func TestFaultOutages(t *testing.T) {
	m := agents.Up(t, 5)
	o := &outages{Mesh: m, pods: podsOn(t, m.Nodes, "pod")}
	const none = "0 lost"
	o.row(t, 1, "an agent is killed (SIGKILL) and started again", none, func(t *testing.T) time.Duration {
		o.kill(t, m.Nodes[0])
		return o.start(t, m.Nodes[0])
	})
	down := outage(10 * time.Minute)
	o.row(t, 2, fmt.Sprintf("an agent is down for %s, and pods come and go", down), none, func(t *testing.T) time.Duration {
		n := m.Nodes[0]
		o.kill(t, n)
		until := time.Now().Add(down)
		for round := 0; round == 0 || time.Now().Before(until); round++ {
			pod := n.AddPod(t, fmt.Sprintf("guest-%d", round))
			pod.MustRun(t, "ping", "-c", "1", "-W", "5", o.pods[1].Addr.String())
			pod.Remove(t)
		}
		return o.start(t, n)
	})
	o.row(t, 3, "all agents are killed and started at once", none, func(t *testing.T) time.Duration {
		o.kill(t, m.Nodes...)
		return o.start(t, m.Nodes...)
	})
	again := func(n *agents.Node) func() {
		return func() {
			o.kill(t, n)
			o.start(t, n)
		}
	}
	o.row(t, 8, "the state directory is full", none, func(t *testing.T) time.Duration { return fullDisk(t, m.Nodes[1], again(m.Nodes[1])) })
	o.row(t, 8, "the state directory is read-only", none, func(t *testing.T) time.Duration { return readOnly(t, m.Nodes[1], again(m.Nodes[1])) })
	o.row(t, 9, "the key store is cut short, and the agent is killed", none, func(t *testing.T) time.Duration { return o.cutKeys(t, m.Nodes[2]) })
	o.row(t, 9, "the view on disk is cut short, and the agent is killed", none, func(t *testing.T) time.Duration {
		n := m.Nodes[2]
		o.kill(t, n)
		if err := os.Truncate(n.StateFile(contract.CacheFile), 100); err != nil {
			t.Fatal(err)
		}
		took := o.start(t, n)
		aside := contract.CacheFile + ".unusable"
		says(t, n, aside, "put aside", "stop the agent")
		if err := os.Remove(n.StateFile(aside)); err != nil {
			t.Error(err)
		}
		return took
	})
	o.row(t, 9, "other files of a node hold garbage, and the agent is killed", none, func(t *testing.T) time.Duration { return o.garble(t, m.Nodes[2]) })
	o.row(t, 10, "10,000 datagrams of garbage a second from two addresses at the gossip port, and TCP streams", none+"; the agent grows by no more than 32 MiB",
		func(t *testing.T) time.Duration { return o.garbage(t, m.Nodes[3]) })
	for i, alone := range []int{1, 2} {
		o.partition(t, 4+i, alone)
	}
	t.Run("a host's address changes", o.newAddress)
}

// outage is how long something is away: in full, or shortened.
func outage(long time.Duration) time.Duration {
	if full.Wanted() {
		return long
	}
	return min(long, 10*time.Second)
}

// row makes a fault under traffic between all pods, none of which may be lost. The fault's function returns how long the
// recovery took.
func (o *outages) row(t *testing.T, order int, name, allowed string, fault func(t *testing.T) time.Duration) {
	t.Run(name, func(t *testing.T) {
		flows := o.between(t, o.pods, false)
		o.note = ""
		took := fault(t)
		flows[0].Send(t, uint64(rate(t)))
		result := faults.Measurement{Order: order, Table: faults.Outages, Fault: name, Lane: laneOf(o.Mesh), Allowed: allowed, Recovery: took, Note: o.note}
		count(t, &result, flows)
		faults.Record(t, result)
	})
}

// count stops flows that may lose nothing.
func count(t *testing.T, result *faults.Measurement, flows []*lab.Flow) {
	t.Helper()
	for _, f := range flows {
		report := f.Stop(t)
		result.Sent += report.There.Sent + report.Back.Sent
		result.Lost += report.Lost()
		if report.Lost() != 0 {
			t.Errorf("lost on the way: %s", report)
		}
	}
}

// between starts numbered datagrams between each two of the pods.
func (o *outages) between(t *testing.T, pods []*agents.Pod, lossy bool) []*lab.Flow {
	t.Helper()
	var flows []*lab.Flow
	for i, from := range pods {
		for _, to := range pods[i+1:] {
			flows = append(flows, o.flow(t, from, to, lossy))
		}
	}
	return flows
}

func (o *outages) flow(t *testing.T, from, to *agents.Pod, lossy bool) *lab.Flow {
	t.Helper()
	o.next++
	return lab.StartFlow(t, lab.FlowOptions{From: from, To: to, Addr: netip.AddrPortFrom(to.Addr, flowPort+o.next), Rate: rate(t), Lossy: lossy})
}

func (o *outages) kill(t *testing.T, nodes ...*agents.Node) {
	t.Helper()
	for _, n := range nodes {
		if err := n.Agent.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}

// start starts agents, and returns how long it took until all links were up as they see it.
func (o *outages) start(t *testing.T, nodes ...*agents.Node) time.Duration {
	t.Helper()
	begin := time.Now()
	for _, n := range nodes {
		n.StartAgent(t)
	}
	o.WaitUp(t, time.Minute)
	return time.Since(begin)
}

// fullDisk fills a node's state directory. The agent says so when it has to write there, goes on, also when restart
// starts it again meanwhile, and recovers with the disk.
func fullDisk(t *testing.T, n *agents.Node, restart func()) time.Duration {
	t.Helper()
	keys := n.Newest(t)
	n.MustRun(t, "sh", "-c", "mkdir /run/kept; cp -a /var/lib/weaveguard/. /run/kept; mount -t tmpfs -o size=256k tmpfs /var/lib/weaveguard; "+
		"cp -a /run/kept/. /var/lib/weaveguard; cat /dev/zero > /var/lib/weaveguard/filler 2>/dev/null; true")
	if answer, err := n.TryRotate(t.Context()); err == nil || !strings.Contains(err.Error(), "no space left") || n.Newest(t) != keys {
		t.Errorf("a request for a key that can't be kept: %+v, %v", answer, err)
	}
	unwritten := func() error {
		s, err := n.Status(t.Context())
		if err != nil {
			return err
		}
		for _, p := range s.Problems {
			if strings.Contains(p.Message, "no space left") {
				return nil
			}
		}
		return fmt.Errorf("its problems are %v", s.Problems)
	}
	lab.Eventually(t, 30*time.Second, "the status says what the agent couldn't write", unwritten)
	restart()
	lab.Eventually(t, 30*time.Second, "the status of an agent that started meanwhile says so", unwritten)
	n.MustRun(t, "sh", "-c", "rm /var/lib/weaveguard/filler")
	begin := time.Now()
	await := newKeys(t, n)
	await()
	took := time.Since(begin)
	n.MustRun(t, "sh", "-c", "cp -a /var/lib/weaveguard/. /run/kept; umount -l /var/lib/weaveguard; cp -a /run/kept/. /var/lib/weaveguard; rm -r /run/kept")
	return took
}

// readOnly lets nothing be written to a node's state directory. The agent refuses what it can't keep, and goes on, also when restart
// starts it again meanwhile.
func readOnly(t *testing.T, n *agents.Node, restart func()) time.Duration {
	t.Helper()
	const dir = contract.StateDir
	n.MustRun(t, "sh", "-ec", "mount --bind "+dir+" "+dir+"; mount -o remount,bind,ro "+dir)
	if answer, err := n.TryRotate(t.Context()); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a request for a key that can't be kept: %+v, %v", answer, err)
	}
	restart()
	if answer, err := n.TryRotate(t.Context()); err == nil || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("a request for a key to an agent that started meanwhile: %+v, %v", answer, err)
	}
	n.MustRun(t, "umount", "-l", dir) // the agent has the lock open
	begin := time.Now()
	newKeys(t, n)()
	return time.Since(begin)
}

// cutKeys cuts a node's key store short while its agent is away. The agent says what is wrong, and goes on when the store is back.
func (o *outages) cutKeys(t *testing.T, n *agents.Node) time.Duration {
	t.Helper()
	path := n.StateFile(keys.FileName)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	o.kill(t, n)
	if err := os.Truncate(path, int64(len(whole)/2)); err != nil {
		t.Fatal(err)
	}
	n.StartAgent(t)
	says(t, n, "key store", keys.FileName, "cut short", "backup")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	o.WaitUp(t, time.Minute)
	return time.Since(begin)
}

// resident is a process' memory in bytes.
func resident(t *testing.T, p *lab.Process) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	var size, pages int
	if _, err := fmt.Sscan(string(text), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// partition cuts some nodes off from the others, and heals that. Inside each part nothing is lost.
func (o *outages) partition(t *testing.T, order, alone int) {
	away := outage(2 * time.Minute)
	name := fmt.Sprintf("%d of 5 nodes are cut off for %s, and back", alone, away)
	t.Run(name, func(t *testing.T) {
		inside := append(o.between(t, o.pods[:alone], false), o.between(t, o.pods[alone:], false)...)
		var across []*lab.Flow
		for _, from := range o.pods[:alone] {
			for _, to := range o.pods[alone:] {
				across = append(across, o.flow(t, from, to, true))
			}
		}
		var heals []func() error
		for _, a := range o.Nodes[:alone] {
			for _, b := range o.Nodes[alone:] {
				heal, err := o.Lab.CutPair(a.Host, b.Host)
				if err != nil {
					t.Fatal(err)
				}
				heals = append(heals, heal)
			}
		}
		inside[0].Send(t, uint64(away.Seconds()*float64(rate(t))))
		for _, heal := range heals {
			if err := heal(); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		var reached sync.WaitGroup
		for _, from := range o.pods[:alone] {
			for _, to := range o.pods[alone:] {
				reached.Go(func() {
					lab.Eventually(t, time.Minute, "pods of both parts reach each other", func() error {
						_, err := from.Run(t.Context(), "ping", "-c", "1", "-W", "1", to.Addr.String())
						return err
					})
				})
			}
		}
		reached.Wait()
		took := time.Since(begin)
		result := faults.Measurement{
			Order: order, Table: faults.Outages, Fault: name, Lane: laneOf(o.Mesh), Allowed: "0 lost inside each part; all pairs back within 8 s",
			Recovery: took, Within: 8 * time.Second, Fails: 2 * 8 * time.Second, // a busy machine is slow
		}
		count(t, &result, inside)
		for _, f := range across {
			f.Stop(t)
		}
		o.WaitUp(t, time.Minute)
		faults.Record(t, result)
	})
}

// newAddress gives a host another address than its agent was started with. The agent ends, and who started it starts it again;
// the others follow.
func (o *outages) newAddress(t *testing.T) {
	const name, allowed = "a host's address changes", 5 * time.Second
	n := o.Nodes[4]
	var flows []*lab.Flow
	for _, from := range o.pods[:4] {
		flows = append(flows, o.flow(t, from, o.pods[4], true))
	}
	inside := o.between(t, o.pods[:4], false)
	next := netip.MustParseAddr("10.99.0.205")
	n.MustRun(t, "ip", "address", "del", n.Addr.String()+"/24", "dev", lab.Port)
	n.MustRun(t, "ip", "address", "add", next.String()+"/24", "dev", lab.Port)
	begin := time.Now()
	lab.Eventually(t, 10*time.Second, "the agent ends", func() error {
		select {
		case <-n.Agent.Done():
			return nil
		default:
			return errors.New("it runs")
		}
	})
	n.Addr, n.Addr4 = next, next
	n.StartAgent(t)
	for i, from := range o.pods[:4] {
		lab.Eventually(t, time.Minute, fmt.Sprintf("pod %d reaches the node's pod", i), func() error {
			_, err := from.Run(t.Context(), "ping", "-c", "1", "-W", "1", o.pods[4].Addr.String())
			return err
		})
	}
	took := time.Since(begin)
	result := faults.Measurement{
		Order: 7, Table: faults.Outages, Fault: name, Lane: laneOf(o.Mesh), Allowed: "0 lost between the others; followed within 5 s",
		Recovery: took, Within: allowed,
	}
	if !emulated() {
		result.Fails = 3 * allowed // a busy machine is slow
	}
	count(t, &result, inside)
	for _, f := range flows {
		f.Stop(t)
	}
	o.WaitUp(t, time.Minute)
	faults.Record(t, result)
}

// TestFaultThirtyJoin has thirty nodes start within a second.
func TestFaultThirtyJoin(t *testing.T) {
	const nodes, allowed = 30, 10 * time.Second
	m := agents.New(t, nodes)
	for _, n := range m.Nodes {
		if !m.Kernel {
			n.StartUserspace(t)
		}
	}
	begin := time.Now()
	var started sync.WaitGroup
	for _, n := range m.Nodes {
		started.Go(func() { n.StartAgent(t) })
	}
	started.Wait()
	starting := time.Since(begin)
	m.WaitUp(t, 2*time.Minute)
	took := time.Since(begin)
	faults.Record(t, faults.Measurement{
		Order: 11, Table: faults.Outages, Fault: "30 nodes join at once", Lane: laneOf(m), Allowed: "full mesh within 10 s",
		Recovery: took, Within: allowed, Fails: 3 * allowed, // a busy machine is slow
		Note: fmt.Sprintf("(all agents started within %s)", starting.Round(10*time.Millisecond)),
	})
}

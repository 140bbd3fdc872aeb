package agents_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

const (
	// garbageRate is how many datagrams of garbage each of two hosts sends in a second.
	garbageRate = 5000
	// garbageTaken is how many of an address's datagrams an agent looks at in a second, as mesh/gossip has it.
	garbageTaken = 1000
	// garbageGrowth is by how much an agent's memory may grow, in bytes.
	garbageGrowth = 32 << 20
	// garbageLines is by how much its log may grow: a line of each kind that there is of refusals.
	garbageLines = 20
)

// streamLoop opens TCP streams to an address, one after the other, says something in each, and prints a line for each.
const streamLoop = `while :; do head -c 300 /dev/urandom 2>/dev/null >/dev/tcp/$1/$2; echo stream; done 2>/dev/null`

// garbage pours what isn't gossip on a node's gossip port, from two hosts that aren't in the mesh. Most of it the agent doesn't
// even look at, and of what it refuses it tells, counted, in some lines.
func (o *outages) garbage(t *testing.T, n *agents.Node) time.Duration {
	t.Helper()
	listens, err := o.Lab.AddHost() // for what never comes
	if err != nil {
		t.Fatal(err)
	}
	hosts := []*lab.Host{}
	for range 2 {
		host, err := o.Lab.AddHost()
		if err != nil {
			t.Fatal(err)
		}
		hosts = append(hosts, host)
	}
	memory, lines, refused := resident(t, n.Agent), strings.Count(n.Agent.Log(), "\n"), refusals(t, n)
	began := time.Now()
	streams := hosts[0].MustStart(t, lab.Command{Name: "streams", Path: "bash",
		Args: []string{"-c", streamLoop, "bash", n.Addr.String(), fmt.Sprint(contract.GossipPort)}})
	var pours []*lab.Flow
	for i, from := range hosts {
		pours = append(pours, lab.StartFlow(t, lab.FlowOptions{
			From: from, To: listens, Addr: netip.AddrPortFrom(n.Addr, contract.GossipPort), Listen: netip.AddrPortFrom(listens.Addr4, uint16(9+i)),
			Rate: garbageRate, Size: 300, OneWay: true, DeadPath: true, Lossy: true,
		}))
	}
	for _, pour := range pours {
		pour.Send(t, 5*garbageRate)
	}
	memory = resident(t, n.Agent) - memory
	var sent uint64
	for _, pour := range pours {
		sent += pour.Stop(t).There.Sent
	}
	took := time.Since(began)
	if err := streams.Kill(); err != nil {
		t.Fatal(err)
	}
	opened, now := uint64(strings.Count(streams.Log(), "stream\n")), refusals(t, n)
	lines = strings.Count(n.Agent.Log(), "\n") - lines
	rate := float64(sent) / took.Seconds()
	if rate < garbageRate && !emulated() {
		t.Errorf("only %.0f datagrams were sent in a second: this test can't tell", rate)
	}
	unseen, looked := now.unseen-refused.unseen, now.looked-refused.looked
	// A stream may be told of several times: as one that is too many, or as several messages. What the agent is too slow for the kernel drops.
	if most := uint64(took.Seconds()+2)*uint64(len(hosts))*garbageTaken + 2*opened; looked > most || unseen == 0 {
		t.Errorf("of %d datagrams and %d streams in %s the agent looked at %d, want at most %d, and didn't look at %d", sent, opened, took, looked, most, unseen)
	}
	if opened == 0 {
		t.Error("no stream was opened")
	}
	if memory > garbageGrowth {
		t.Errorf("the agent grew by %d bytes", memory)
	}
	if lines > garbageLines {
		t.Errorf("its log grew by %d lines, want at most %d", lines, garbageLines)
	}
	o.note = fmt.Sprintf("(%.0f a second and %d streams came; the agent looked at %d, refused %d unseen, grew by %d KiB, and logged %d lines)",
		rate, opened, looked, unseen, memory>>10, lines)
	return 0
}

// refused is how much of what came by gossip an agent has refused: without a look, as there was too much, and after one.
type refused struct{ unseen, looked uint64 }

func refusals(t *testing.T, n *agents.Node) (r refused) {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for reason, count := range s.Counters.Refused {
		switch {
		case reason == "gossip-overload":
			r.unseen += count
		case strings.HasPrefix(reason, "gossip-"):
			r.looked += count
		}
	}
	return r
}

package agents_test

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/test/lab"
	"github.com/weaveguard/weaveguard/test/lab/agents"
	"github.com/weaveguard/weaveguard/test/lab/bare"
)

const (
	benchRounds = 9
	benchBytes  = 128 << 20 // of one transfer
	benchPings  = "500"     // one after the other
)

// way is one of two ways between two hosts.
type way struct {
	name     string
	from, to interface {
		lab.Location
		MustRun(t testing.TB, name string, args ...string) string
	}
	addr netip.Addr

	rates []float64 // MiB/s
	rtts  []float64 // ms
}

var pingTimes = regexp.MustCompile(`rtt min/avg/max/mdev = [\d.]+/([\d.]+)/`)

func (w *way) measure(b *testing.B) {
	b.Helper()
	x := lab.StartTransfer(b, lab.TransferOptions{From: w.from, To: w.to, Addr: netip.AddrPortFrom(w.addr, 7001), Bytes: benchBytes})
	w.rates = append(w.rates, benchBytes/x.Wait(b, time.Minute).Duration.Seconds()/(1<<20))
	out := w.from.MustRun(b, "ping", "-q", "-A", "-c", benchPings, w.addr.String())
	found := pingTimes.FindStringSubmatch(out)
	if found == nil {
		b.Fatalf("ping says: %s", out)
	}
	rtt, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	w.rtts = append(w.rtts, rtt)
}

func median(values []float64) float64 { return slices.Sorted(slices.Values(values))[len(values)/2] }

// BenchmarkPodToPod compares the way between pods of two hosts with a tunnel that somebody made by hand between the same
// hosts, with the same WireGuard and the same MTU: throughput of a TCP connection and the time of a ping, each the median of
// rounds in which both take turns.
func BenchmarkPodToPod(b *testing.B) {
	m := agents.Up(b, 2)
	pods := podsOn(b, m.Nodes, "bench")
	const mtu = 1440 // as agents have it here: 60 bytes less than the underlay
	here, there := bare.Tunnel{Device: "bare0", Port: 51900, MTU: mtu, Kernel: m.Kernel}.Connect(b, m.Nodes[0].Host, m.Nodes[1].Host)
	ours := &way{name: "pods", from: pods[0], to: pods[1], addr: pods[1].Addr}
	theirs := &way{name: "bare", from: here.Host, to: there.Host, addr: there.Inner}
	for round := range benchRounds {
		ways := []*way{ours, theirs}
		if round%2 == 1 {
			slices.Reverse(ways)
		}
		for _, w := range ways {
			w.measure(b)
		}
	}
	for _, w := range []*way{ours, theirs} {
		b.ReportMetric(median(w.rates), w.name+"-MiB/s")
		b.ReportMetric(median(w.rtts), w.name+"-rtt-ms")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(median(ours.rates)/median(theirs.rates), "throughput-ratio")
	b.ReportMetric(median(ours.rtts)/median(theirs.rtts), "rtt-ratio")
}

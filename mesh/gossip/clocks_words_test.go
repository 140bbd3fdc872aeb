package gossip

import (
	"encoding/binary"
	"log/slog"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/weaveguard/weaveguard/mesh/view"
)

func TestClockProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		offsets map[string]time.Duration
		want    string
	}{
		"none":             {nil, ""},
		"all right":        {map[string]time.Duration{"a": time.Second, "b": -59 * time.Second}, ""},
		"one of one":       {map[string]time.Duration{"a": -61 * time.Second}, "node a: its clock is 1 min behind this node's"},
		"one of two":       {map[string]time.Duration{"a": 0, "b": 90 * time.Minute}, "node b: its clock is 1 h 30 min ahead of this node's"},
		"both of two":      {map[string]time.Duration{"a": time.Hour, "b": time.Hour}, "clock: this node's clock is 1 h behind those of 2 of 2 other nodes"},
		"most agree":       {map[string]time.Duration{"a": time.Hour, "b": time.Hour, "c": 0}, "clock: this node's clock is 1 h behind those of 2 of 3 other nodes"},
		"nobody agrees":    {map[string]time.Duration{"a": time.Hour, "b": -time.Hour}, "node a: its clock is 1 h ahead of this node's"},
		"nonsense":         {map[string]time.Duration{"a": math.MaxInt64}, "node a: its clock is decades ahead of this node's"},
		"nonsense, before": {map[string]time.Duration{"a": math.MinInt64}, "node a: its clock is decades behind this node's"},
	} {
		var said []string
		for _, p := range clockProblems(c.offsets) {
			if !p.Warning || p.Remedy == "" {
				t.Errorf("%s: %+v, want a warning with a remedy", name, p)
			}
			said = append(said, p.Subject+": "+p.Message)
		}
		if got := strings.Join(said, "; "); !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s: it says %q, want %q", name, got, c.want)
		}
	}
	crowd := map[string]time.Duration{}
	for i := range 40 {
		crowd[string(rune('A'+i))] = time.Duration(i+1) * time.Hour
	}
	if got := len(clockProblems(crowd)); got != maxSubjects+1 {
		t.Errorf("%d problems of 40 clocks, want %d", got, maxSubjects+1)
	}
}

// What a member answers pings with may be anything.
func TestPingsOfStrangers(t *testing.T) {
	t.Parallel()
	b := newBook("self/1")
	name := memberName("n")
	b.alive(name, "n", netip.MustParseAddrPort("192.0.2.1:6783"), []byte("r"), time.Now())
	p := pings{&Gossip{book: b, log: slog.New(slog.DiscardHandler)}, &membership{}}
	good := binary.BigEndian.AppendUint64([]byte{clockFormat}, uint64(time.Now().Add(time.Hour).UnixNano()))
	for what, payload := range map[string][]byte{
		"none": nil, "short": good[:8], "long": append(good[:9:9], 0), "another format": append([]byte{2}, good[1:]...),
	} {
		p.NotifyPingComplete(&memberlist.Node{Name: name}, time.Millisecond, payload)
		if got := b.pulses()["n"]; got.ClockKnown || got.RTT != time.Millisecond {
			t.Errorf("%s: %+v, want the RTT alone", what, got)
		}
	}
	for _, far := range []int64{math.MaxInt64, math.MinInt64, 0, -1} {
		p.NotifyPingComplete(&memberlist.Node{Name: name}, time.Second, binary.BigEndian.AppendUint64([]byte{clockFormat}, uint64(far)))
		if got := clockProblems(b.clocks()); len(got) != 1 {
			t.Errorf("of a clock at %d ns: %v, want one problem", far, got)
		}
	}
	p.NotifyPingComplete(&memberlist.Node{Name: "nobody"}, time.Second, good)
	p.NotifyPingComplete(&memberlist.Node{Name: memberName("other")}, time.Second, good)
	p.NotifyPingComplete(&memberlist.Node{Name: name}, time.Second, good)
	if got := b.pulses(); len(got) != 1 || (got["n"].ClockOffset-time.Hour).Abs() > 2*time.Second {
		t.Errorf("%v, want n an hour ahead alone", got)
	}
	told := b.clocks()["n"]
	p.NotifyPingComplete(&memberlist.Node{Name: name}, 10*time.Second, good)
	if b.clocks()["n"] != told {
		t.Errorf("what is told moved by 5 s")
	}
	b.pulse(name, "n", view.Pulse{ClockKnown: true})
	if b.clocks()["n"] != 0 {
		t.Errorf("a clock that was set is still told as wrong")
	}
}

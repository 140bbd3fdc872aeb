package gossip_test

import (
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/gossip"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// What two members exchange is counted at both, and a record is known since it was heard first, from whomever.
func TestTrafficAndSince(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	a, b := start(t, "traffic-a", 241), start(t, "traffic-b", 242)
	if got := a.Traffic(); got != (view.GossipTraffic{}) {
		t.Errorf("of a member that is alone: %+v", got)
	}
	a.announce(t, []byte("record of a"))
	b.Seek([]gossip.Target{a.target()})
	eventually(t, "b hears a's record", func() bool { return b.has("traffic-a", []byte("record of a")) })
	since := b.Heard()[0].Since
	if since.Before(begin) || since.After(time.Now()) {
		t.Errorf("it was heard at %v, and the test began at %v", since, begin)
	}
	eventually(t, "a and b see each other", func() bool { return a.sees("traffic-b") && b.sees("traffic-a") })
	const messages = 5
	for range messages {
		if err := a.Deliver("traffic-b", []byte("hello")); err != nil { // by a stream, which loses none
			t.Fatal(err)
		}
	}
	eventually(t, "all is counted", func() bool {
		sent, received := a.Traffic(), b.Traffic()
		return sent.SentMessages == messages && received.ReceivedMessages == messages && sent.ReceivedMessages == 0 &&
			sent.OpenedStreams >= messages && received.AcceptedStreams >= messages && received.OpenedStreams >= 1 &&
			sent.SentPackets > 0 && sent.ReceivedPackets > 0 && received.SentPackets > 0 && received.ReceivedPackets > 0
	})
	if got := b.Heard()[0].Since; !got.Equal(since) {
		t.Errorf("it was heard at %v, and later at %v", since, got)
	}
}

// Reasons has each reason that the source has.
func TestReasonsAreComplete(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("tally.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, match := range regexp.MustCompile(`(?m)^\treason\w+ += "([^"]+)"`).FindAllSubmatch(source, -1) {
		want = append(want, string(match[1]))
	}
	got := gossip.Reasons()
	slices.Sort(got)
	slices.Sort(want)
	if len(want) < 10 || !slices.Equal(got, want) {
		t.Errorf("Reasons are %q, and the source has %q", got, want)
	}
}

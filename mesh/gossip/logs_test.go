package gossip

import (
	"bytes"
	"fmt"
	"log"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// Lines as memberlist 0.7 prints them.
func TestLogLevelsAndReasons(t *testing.T) {
	tests := []struct {
		line   string
		level  slog.Level
		reason string
		about  string // subject of the problem
	}{
		{"[DEBUG] memberlist: Stream connection from=10.0.0.7:41234", slog.LevelDebug, "", ""},
		{"[INFO] memberlist: Suspect n2/0011223344556677 has failed, no acks received", slog.LevelDebug, "", ""},
		{"[ERR] memberlist: Push/Pull with n2/0011223344556677 failed: dial tcp 10.0.0.2:6783: connect: connection refused",
			slog.LevelInfo, "", ""},
		{"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=10.0.0.7:6783",
			slog.LevelWarn, reasonUndecryptable, "gossip from 10.0.0.7"},
		{"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=[fd00::7]:6783",
			slog.LevelWarn, reasonUndecryptable, "gossip from fd00::7"},
		{"[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=[::ffff:10.0.0.7]:6783",
			slog.LevelWarn, reasonUndecryptable, "gossip from 10.0.0.7"},
		{"[ERR] memberlist: failed to receive: no installed keys could decrypt the message from=10.0.0.7:41234",
			slog.LevelWarn, reasonUndecryptable, "gossip from 10.0.0.7"},
		{"[ERR] memberlist: failed to receive: encryption is configured but remote state is not encrypted from=10.0.0.7:41234",
			slog.LevelWarn, reasonUnencrypted, "gossip from 10.0.0.7"},
		{"[ERR] memberlist: Decrypt packet failed: unsupported encryption version 71 from=10.0.0.7:6783",
			slog.LevelWarn, reasonMalformed, "gossip from 10.0.0.7"},
		{"[ERR] memberlist: msg type (99) not supported from=10.0.0.7:6783", slog.LevelWarn, reasonMalformed, ""},
		{"[ERR] memberlist: Failed to decode alive message: EOF from=10.0.0.7:6783", slog.LevelWarn, reasonMalformed, ""},
		{"[WARN] memberlist: handler queue full, dropping message (4) from=10.0.0.7:6783", slog.LevelWarn, reasonOverload, ""},
		{"[ERR] memberlist: failed to receive: remote node state is larger than limit (4294967295) from=10.0.0.7:41234",
			slog.LevelWarn, reasonOverload, ""},
		{"[ERR] memberlist: Conflicting address for n2/0011223344556677. Mine: 10.0.0.2:6783 Theirs: 10.0.0.3:6783 Old state: 0",
			slog.LevelWarn, reasonConflict, ""},
		{"[WARN] memberlist: Was able to connect to n2/0011223344556677 over TCP but UDP probes failed, network may be misconfigured",
			slog.LevelWarn, "", "node n2"},
		{"[WARN] memberlist: Got ping for unexpected node 'n2/0011223344556677' from=10.0.0.7:6783", slog.LevelDebug, "", ""},
		{"[WARN] memberlist: ignoring alive message for 'x no installed keys could decrypt the message from=10.9.9.9:5 y': no",
			slog.LevelInfo, "", ""},
		{"[WARN] memberlist: ignoring alive message for 'n2 over TCP but UDP probes failed connect to n3/0011223344556677 x': no",
			slog.LevelInfo, "", ""},
		{"[WARN] memberlist: Refuting a suspect message (from: x exceeds limit Decrypt packet failed from=10.9.9.9:5)",
			slog.LevelInfo, "", ""},
		{"[ERR] memberlist: Failed push/pull merge: node 'Decrypt packet failed' protocol version (9) is incompatible from=10.0.0.7:5",
			slog.LevelInfo, "", ""},
		{"[ERR] memberlist: Push/Pull with n2/0011223344556677 failed: remote error: no installed keys could decrypt the message from=10.9.9.9:5",
			slog.LevelInfo, "", ""},
		{"Err: Could not set the deadline: closed", slog.LevelInfo, "", ""},
		{"[", slog.LevelInfo, "", ""},
		{"", slog.LevelInfo, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.line, func(t *testing.T) {
			w := newLogWriter(slog.New(slog.DiscardHandler), newTally(), 6783)
			l := w.parse(tt.line + "\n")
			if l.level != tt.level || l.reason != tt.reason || l.report.Subject != tt.about {
				t.Errorf("level %v, reason %q, about %q; want %v, %q, %q", l.level, l.reason, l.report.Subject,
					tt.level, tt.reason, tt.about)
			}
		})
	}
}

// A flood of one kind becomes one line an interval, with what was left out, while all of it is counted.
func TestLogFlood(t *testing.T) {
	var out bytes.Buffer
	tally := newTally()
	w := newLogWriter(slog.New(slog.NewTextHandler(&out, nil)), tally, 6783)
	std := log.New(w, "", 0)
	for i := range 1000 {
		std.Printf("[ERR] memberlist: Decrypt packet failed: no installed keys could decrypt the message from=10.0.0.%d:6783", i%5)
	}
	std.Printf("[ERR] memberlist: Push/Pull with n2/0011223344556677 failed: EOF")
	if got := strings.Count(out.String(), "\n"); got != 2 {
		t.Errorf("%d lines, want one of each kind:\n%s", got, &out)
	}
	if got := tally.counts()[reasonUndecryptable]; got != 1000 {
		t.Errorf("counted %d, want 1000", got)
	}
	if got := len(tally.recent(time.Now())); got != 5 {
		t.Errorf("%d problems, want one for each of 5 addresses", got)
	}
	out.Reset()
	w.flush(time.Now().Add(logInterval))
	if got := out.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "suppressed=998") {
		t.Errorf("after the interval: %q, want the last line, and 998 others left out", got)
	}
	out.Reset()
	w.flush(time.Now().Add(3 * logInterval))
	if out.Len() > 0 || len(w.kinds) > 0 {
		t.Errorf("after a quiet interval: %q, %d kinds held", &out, len(w.kinds))
	}
}

func TestLogIsBounded(t *testing.T) {
	var out bytes.Buffer
	w := newLogWriter(slog.New(slog.NewTextHandler(&out, nil)), newTally(), 6783)
	for i := range 1000 {
		kind := strings.Map(func(r rune) rune { return r - '0' + 'a' }, fmt.Sprint(i))
		_, _ = fmt.Fprintf(w, "[ERR] memberlist: %s %s\n", kind, strings.Repeat("é", 10_000))
	}
	if got := strings.Count(out.String(), "\n"); got > maxLogKinds+1 {
		t.Errorf("%d lines, at most %d", got, maxLogKinds+1)
	}
	if got := out.Len() / (maxLogKinds + 1); got > 2*maxLogLine {
		t.Errorf("lines of %d bytes", got)
	}
}

// Subjects are what others choose, so what an operator reads of them stands still, whoever floods this node with what.
func TestTallyDecaysAndIsBounded(t *testing.T) {
	tally := newTally()
	tally.report(keyWorn, wornOut("a/1"), dawn)
	says := func(now time.Time) (said []string) {
		for _, p := range tally.recent(now) {
			said = append(said, p.Subject)
		}
		return said
	}
	flood := func(now time.Time, told func(netip.Addr) view.Problem) {
		for i := range 10_000 {
			from := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
			tally.report(keyPacket+from.String(), told(from), now)
			p := noUDP(fmt.Sprintf("n%03d", i), 6783)
			tally.report(keyUDP+p.Subject, p, now)
		}
	}
	flood(dawn, otherKey)
	first := tally.recent(dawn)
	if len(first) != 1+2*(maxSubjects+1) || first[maxSubjects].Subject != "gossip from more addresses" ||
		first[2*maxSubjects+1].Subject != "more nodes" || first[2*maxSubjects+2] != wornOut("a/1") {
		t.Errorf("%d problems of too many: %q", len(first), says(dawn))
	}
	second := dawn.Add(time.Second)
	flood(second, func(from netip.Addr) view.Problem { return notGossip(from, 6783) })
	if again := tally.recent(second); !slices.Equal(again, first) {
		t.Errorf("a second later other problems are said of the same flood:\n%q\n%q", first, again)
	}
	tally.withdraw(keyWorn)
	tally.report(keyUDP+"late", noUDP("late", 6783), second.Add(problemAge-time.Second))
	if got := says(second.Add(problemAge - time.Second)); slices.Contains(got, wornOut("").Subject) || slices.Contains(got, "node late") {
		t.Errorf("after one was withdrawn: %q", got)
	}
	later := second.Add(problemAge + time.Second)
	tally.report(keyUDP+"late", noUDP("late", 6783), later)
	if got := says(later); !slices.Equal(got, []string{"node late", "more nodes"}) {
		t.Errorf("after their age: %q, want the latest two", got)
	}
	if got := says(later.Add(problemAge + time.Second)); len(got) != 0 {
		t.Errorf("after that one's age: %q", got)
	}
}

func TestOtherKey(t *testing.T) {
	t.Parallel()
	tally, now := newTally(), time.Now()
	one, two, three := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.3")
	tally.report(keyPacket+one.String(), otherKey(one), now)
	tally.report(keyPacket+two.String(), notGossip(two, 6783), now)
	for _, tt := range []struct {
		from  netip.Addr
		after time.Duration
		want  bool
	}{{one, 0, true}, {one, problemAge, true}, {one, problemAge + 1, false}, {two, 0, false}, {three, 0, false}} {
		if got := tally.hasOtherKey(tt.from, now.Add(tt.after)); got != tt.want {
			t.Errorf("%s has another key after %s: %t, want %t", tt.from, tt.after, got, tt.want)
		}
	}
}

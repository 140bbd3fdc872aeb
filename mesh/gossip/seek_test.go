package gossip

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func targetAt(i int) Target {
	return Target{
		Node: fmt.Sprintf("n%d", i),
		Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 6783),
	}
}

// present is a presence of this node and those numbers.
func present(numbers ...int) presence {
	members := []Member{{Node: "self", Addr: netip.MustParseAddrPort("10.9.9.9:6783"), Self: true}}
	for _, i := range numbers {
		members = append(members, Member{Node: targetAt(i).Node, Addr: targetAt(i).Addr})
	}
	return presenceOf(members)
}

func TestSeekerTriesTheAbsentOnly(t *testing.T) {
	s := &seeker{}
	seed := Target{Addr: targetAt(1).Addr}
	s.set([]Target{targetAt(1), targetAt(2), targetAt(3), seed})
	tried := make(map[Target]int)
	for range 200 {
		target, wait := s.next(dawn, present(1))
		if wait != 0 {
			t.Fatalf("wait %v with targets due", wait)
		}
		tried[target]++
	}
	if len(tried) != 2 || tried[targetAt(2)] < 50 || tried[targetAt(3)] < 50 {
		t.Errorf("tried %v, want n2 and n3, half and half", tried)
	}
	if _, wait := s.next(dawn, present(1, 2, 3)); wait != seekInterval {
		t.Errorf("with nobody absent it waits %v, want %v", wait, seekInterval)
	}
}

// An address that fails is tried less and less often, down to a limit, and at once when it was away anew.
func TestSeekerBacksOff(t *testing.T) {
	s := &seeker{}
	s.set([]Target{targetAt(1)})
	refused := errors.New("connection refused")
	now := dawn
	for i, want := range []time.Duration{1, 2, 4, 8, 8, 8} {
		target, wait := s.next(now, present(2))
		if wait != 0 {
			t.Fatalf("attempt %d isn't due", i)
		}
		s.tried(target, refused, now, present(2))
		want *= seekInterval
		if _, wait := s.next(now.Add(want*3/4-time.Millisecond), present(2)); wait == 0 {
			t.Errorf("failure %d: tried again before %v", i+1, want*3/4)
		}
		now = now.Add(want*5/4 + time.Millisecond)
	}
	s.next(now, present(1, 2)) // it is seen alive
	s.tried(targetAt(1), refused, now, present(2))
	if _, wait := s.next(now.Add(seekInterval*5/4+time.Millisecond), present(2)); wait != 0 {
		t.Error("failures from before it was alive count")
	}
}

// While nobody is there, nothing is given up for long.
func TestSeekerHurriesWhenLonely(t *testing.T) {
	s := &seeker{}
	s.set([]Target{targetAt(1)})
	for range 20 {
		s.tried(targetAt(1), errors.New("timeout"), dawn, present())
	}
	if _, wait := s.next(dawn.Add(lonelyBackoff*seekInterval*5/4+time.Millisecond), present()); wait != 0 {
		t.Errorf("still waits %v", wait)
	}
	if pace := s.pace(present()); pace > 2*lonelyInterval {
		t.Errorf("pace %v", pace)
	}
}

// A seed that answers under another address stays absent. It must not be joined again and again.
func TestSeekerLeavesSeedsThatAnswerAlone(t *testing.T) {
	s := &seeker{}
	seed := Target{Addr: netip.MustParseAddrPort("192.0.2.7:6783")}
	s.set([]Target{seed})
	s.tried(seed, nil, dawn, present(1))
	if _, wait := s.next(dawn.Add(maxBackoff*seekInterval/2), present(1)); wait == 0 {
		t.Error("tried again at once")
	}
}

func TestSeekerIntervalGrowsWithTheMesh(t *testing.T) {
	for size, want := range map[int]time.Duration{2: time.Second, 31: time.Second, 63: 2 * time.Second, 1023: 32 * time.Second} {
		s := &seeker{}
		var targets []Target
		for i := range size {
			targets = append(targets, targetAt(i))
		}
		s.set(targets)
		if got := s.interval(present(0)); got != want {
			t.Errorf("%d others: %v, want %v", size, got, want)
		}
	}
}

func TestSeekerSet(t *testing.T) {
	s := &seeker{}
	for _, bad := range []string{"[fe80::1%eth0]:6783", "10.0.0.1:0"} {
		if s.set([]Target{{Addr: netip.MustParseAddrPort(bad)}, {}}) || len(s.targets) > 0 {
			t.Errorf("%s is taken as a target", bad)
		}
	}
	if !s.set([]Target{targetAt(1)}) {
		t.Error("a new target isn't fresh")
	}
	s.tried(targetAt(1), errors.New("refused"), dawn, present(2))
	mapped := Target{Node: "n1", Addr: netip.AddrPortFrom(netip.AddrFrom16(targetAt(1).Addr.Addr().As16()), 6783)}
	if s.set([]Target{mapped, targetAt(1)}) {
		t.Error("a known target is fresh")
	}
	if len(s.targets) != 1 {
		t.Errorf("targets %v, want one", s.targets)
	}
	if _, wait := s.next(dawn, present(2)); wait == 0 {
		t.Error("setting the targets again forgets what failed")
	}
	s.set(nil)
	s.tried(targetAt(1), nil, dawn, present(2)) // an attempt that ends after its target went
	if len(s.attempts) != 0 {
		t.Error("attempts of former targets are kept")
	}
}

package path

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// wire is a path that carries packets of up to a size, and loses others by a rule.
type wire struct {
	carries int
	drops   func(round, size int) bool
}

// round plays one round of a search.
func (w wire) round(s *search, n int) (sent int) {
	sizes := s.sizes()
	var answered []int
	for _, size := range sizes {
		if size <= w.carries && (w.drops == nil || !w.drops(n, size)) {
			answered = append(answered, size)
		}
	}
	s.heard(sizes, answered)
	return len(sizes)
}

// settle plays rounds until the search ends.
func (w wire) settle(t *testing.T, s *search, rounds int) (took, probes int) {
	t.Helper()
	for n := range rounds {
		probes += w.round(s, n)
		if s.settled {
			return n + 1, probes
		}
	}
	t.Fatalf("not settled after %d rounds: %+v", rounds, s)
	return 0, 0
}

func TestSearchFindsTheLargestSize(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		floor, limit, carries int
		want                  int // 0: the whole limit
		rounds, probes        int // at most
	}{
		"all of it":           {floor: 576, limit: 1500, carries: 1500, want: 0, rounds: 1, probes: 10},
		"a little less":       {floor: 576, limit: 1500, carries: 1499, want: 1484, rounds: 10, probes: 50},
		"a tunnel's less":     {floor: 576, limit: 1500, carries: 1400, want: 1388, rounds: 10, probes: 50},
		"a step exactly":      {floor: 576, limit: 1500, carries: 1388, want: 1388, rounds: 10, probes: 50},
		"IPv6's least":        {floor: 1280, limit: 1488, carries: 1280, want: 1280, rounds: 10, probes: 50},
		"next to nothing":     {floor: 576, limit: 1500, carries: 600, want: 588, rounds: 10, probes: 50},
		"jumbo frames":        {floor: 576, limit: 8988, carries: 9000, want: 0, rounds: 1, probes: 10},
		"no jumbo frames":     {floor: 576, limit: 8988, carries: 1500, want: 1500, rounds: 10, probes: 80},
		"a limit at the base": {floor: 1280, limit: 1288, carries: 1300, want: 0, rounds: 1, probes: 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSearch(tt.floor, tt.limit, 0)
			if got := s.mtu(); got != 0 {
				t.Errorf("before anything is answered the path's MTU is %d", got)
			}
			rounds, probes := wire{carries: tt.carries}.settle(t, s, 20)
			if got := s.mtu(); got != tt.want {
				t.Errorf("the path's MTU is %d, want %d", got, tt.want)
			}
			if rounds > tt.rounds || probes > tt.probes {
				t.Errorf("it took %d rounds and %d probes, want at most %d and %d", rounds, probes, tt.rounds, tt.probes)
			}
		})
	}
}

// A path that narrows and widens is followed, and nothing in between is ever reported.
func TestSearchFollowsThePath(t *testing.T) {
	t.Parallel()
	s := newSearch(576, 1500, 0)
	before := 0
	for _, carries := range []int{1500, 1400, 1300, 1301, 1450, 600, 1500, 1300, 1500} {
		want := (carries-12)/step*step + 12 // 1500 is a whole number of steps above 12
		if want == 1500 {
			want = 0
		}
		w := wire{carries: carries}
		for n := 0; ; n++ {
			w.round(s, n)
			if got := s.mtu(); got != before && got != want {
				t.Fatalf("on the way from %d to %d it reports %d", before, want, got)
			}
			if s.settled && s.mtu() == want {
				break
			}
			if n > 16 {
				t.Fatalf("a path of %d isn't found: %+v", carries, s)
			}
		}
		before = want
	}
}

// What is settled costs one probe a round, and a second one where less passes than the route promises.
func TestSettledSearchIsCheap(t *testing.T) {
	t.Parallel()
	for carries, want := range map[int]int{1500: 1, 1400: 2} {
		s := newSearch(576, 1500, 0)
		w := wire{carries: carries}
		w.settle(t, s, 10)
		for n := range 5 {
			if got := w.round(s, n); got != want {
				t.Errorf("%d probes in a round of a path of %d, want %d", got, carries, want)
			}
		}
	}
}

// A lost packet isn't a narrow path.
func TestSearchForgivesLoss(t *testing.T) {
	t.Parallel()
	s := newSearch(576, 1500, 0)
	w := wire{carries: 1500}
	w.settle(t, s, 5)
	for n := range 40 {
		lossy := wire{carries: 1500, drops: func(_, size int) bool { return n%4 != 0 && size > 1000 }}
		lossy.round(s, n)
		if got := s.mtu(); got != 0 {
			t.Fatalf("in round %d the path's MTU is %d, by loss alone", n, got)
		}
	}
}

// On a line that loses half of all probes, the whole path is still found to carry all, and a narrow one to be narrow.
func TestSearchOnABadLine(t *testing.T) {
	t.Parallel()
	for _, carries := range []int{1500, 1400} {
		for seed := range uint64(200) {
			rng := rand.New(rand.NewPCG(seed, 1))
			s, w := newSearch(576, 1500, 0), wire{carries: carries, drops: func(int, int) bool { return rng.IntN(100) < 51 }}
			for n := range 300 {
				w.round(s, n)
				if got := s.mtu(); got != 0 && (carries == 1500 || got != 1388) {
					t.Fatalf("seed %d: in round %d the path's MTU is %d, by loss alone", seed, n, got)
				}
			}
			if carries == 1400 && s.mtu() != 1388 {
				t.Errorf("seed %d: a path of 1400 isn't found in 300 rounds: %+v", seed, s)
			}
		}
	}
}

// As long as nobody answers nothing is changed: an agent that is down, or one that knows no probes, has no narrow path.
func TestSearchKeepsWhatItKnowsOfASilentPeer(t *testing.T) {
	t.Parallel()
	for _, carries := range []int{1500, 1400} {
		s := newSearch(576, 1500, 0)
		for n := range 10 {
			wire{}.round(s, n)
		}
		if s.mtu() != 0 || !s.lost() {
			t.Errorf("without any answer: MTU %d, lost %t", s.mtu(), s.lost())
		}
		wire{carries: carries}.settle(t, s, 10)
		known := s.mtu()
		for n := range 10 {
			wire{}.round(s, n)
		}
		if s.mtu() != known || !s.lost() {
			t.Errorf("after the answers ended: MTU %d, want %d", s.mtu(), known)
		}
		wire{carries: 1300}.settle(t, s, 10)
		if s.mtu() != 1292 || s.lost() {
			t.Errorf("when the peer is back: MTU %d, want 1292", s.mtu())
		}
	}
}

// What was found before counts until something else is found, in steps of the new limit.
func TestSearchBeginsWithWhatWasFound(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ before, limit, want int }{
		{1388, 1500, 1388}, {1388, 1388, 0}, {1388, 1292, 0}, {1500, 1496, 0}, {1390, 1500, 1388}, {12, 1500, 0},
	} {
		s := newSearch(576, tt.limit, tt.before)
		if got := s.mtu(); got != tt.want {
			t.Errorf("before %d, limit %d: MTU %d, want %d", tt.before, tt.limit, got, tt.want)
		}
		wire{carries: 1350}.settle(t, s, 10)
		if got, want := s.found, min(tt.limit, 1340-(1340-s.base)%step); got != want {
			t.Errorf("before %d, limit %d: found %d, want %d", tt.before, tt.limit, got, want)
		}
	}
}

// Whatever is answered, in whatever order, the search stays within its bounds and its rounds stay small.
func FuzzSearch(f *testing.F) {
	f.Add([]byte{0xff, 0x0f, 0, 0, 0, 1, 3, 7})
	f.Fuzz(func(t *testing.T, answers []byte) {
		s := newSearch(576, 1500, 0)
		for _, mask := range answers {
			sizes := s.sizes()
			if len(sizes) == 0 || len(sizes) > fan+4 || !slices.IsSorted(sizes) || sizes[0] < s.base || sizes[len(sizes)-1] > s.limit {
				t.Fatalf("a round of %v: %+v", sizes, s)
			}
			var answered []int
			for i, size := range sizes {
				if mask>>(i%8)&1 == 1 {
					answered = append(answered, size)
				}
			}
			s.heard(sizes, answered)
			if m := s.mtu(); m != 0 && (m < s.base || m >= s.limit) || len(s.misses) > 64 {
				t.Fatalf("mtu %d: %+v", m, s)
			}
		}
	})
}

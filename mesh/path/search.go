package path

import (
	"maps"
	"math"
	"slices"
)

const (
	// step is between two sizes that are told apart, in bytes: WireGuard pads packets to multiples of it.
	step = 16
	// tries is how many rounds a size goes unanswered, while a smaller one is answered, until it counts as too large, where
	// nothing is lost; and maxTries, whatever is lost.
	tries, maxTries = 3, 40
	// away is how many rounds in a row without an answer mean that the peer is away, however much is lost.
	away = 8
	// falsely is how likely it may be that a size counts as too large by loss alone.
	falsely = 1e-4
	// memory is of how many probes that the path carries it is known which were lost.
	memory = 128
	// fan is how many sizes are tried at a time to find the largest that passes.
	fan = 8
)

// search is what is known of one path. It has no clock and sends nothing: sizes says what the next round is to send,
// and heard takes what of it was answered. All sizes are in bytes, with the IP header.
//
// It is in one of two phases (RFC 8899, section 5.2, in brackets). Settled, it confirms what it found, round by round,
// and tries a little more (Search Complete). Searching, it halves what lies between the largest size that was answered
// and the smallest that wasn't, and does so with several sizes at once (Base and Search).
type search struct {
	base  int // what any path carries
	limit int // what the route promises; all sizes are whole steps below it

	found   int // what the last search came to; 0: none came to an end yet
	settled bool

	// Of the last probes that the path carries: how many were answered, and how many weren't.
	came, gone int

	// Of the search under way.
	low    int         // the largest size that was answered; 0: none
	high   int         // the smallest that counts as too large; above limit: none
	misses map[int]int // in how many rounds a size went unanswered while a smaller one was answered
	silent int         // rounds in a row without any answer
}

// newSearch begins with what was found before, which counts until the first search ends; 0: nothing.
func newSearch(floor, limit, before int) *search {
	s := &search{base: limit - (limit-floor)/step*step, limit: limit}
	if before = min(before, limit); before >= s.base {
		s.found = s.base + (before-s.base)/step*step
	}
	s.restart()
	return s
}

// restart searches from the start. What was found before counts until the search ends.
func (s *search) restart() {
	s.settled, s.low, s.high, s.misses = false, 0, s.limit+step, map[int]int{}
}

// mtu is what the path carries, when it was found to be less than the route promises; else 0.
func (s *search) mtu() int {
	if s.found == s.limit {
		return 0
	}
	return s.found
}

// lost reports whether nothing has been answered for so long that there is no hurry.
func (s *search) lost() bool { return s.lostFor() >= 0 }

// lostFor is how many rounds ago there was no hurry any more; negative: there is.
func (s *search) lostFor() int { return s.silent - min(s.enough(), away) }

// sizes are what the next round sends, smallest first.
func (s *search) sizes() []int {
	var all []int
	if s.settled {
		all = append(all, s.found)
		if s.found < s.limit {
			all = append(all, s.found+step) // does more pass by now?
		}
		return all
	}
	low, high := s.low, s.doubtful()
	if low == 0 {
		low = s.base
	}
	all = append(all, low) // when it is answered, what isn't was too large
	if high <= s.limit {
		all = append(all, high)
	}
	between := (high-low)/step - 1
	for i := 1; i <= fan; i++ {
		all = append(all, low+step*((between*i+fan-1)/fan))
	}
	for _, likely := range []int{s.found, s.found + step} {
		if likely > low && likely < high && s.found != 0 {
			all = append(all, likely)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// doubtful is the smallest size that went unanswered in this search.
func (s *search) doubtful() int {
	high := s.high
	for size := range s.misses {
		high = min(high, size)
	}
	return high
}

// heard takes what was answered of the sizes that a round sent, in any order.
func (s *search) heard(sent, answered []int) {
	if len(answered) == 0 {
		s.unheard()
		return
	}
	s.silent = 0
	top := slices.Max(answered)
	s.weigh(sent, answered, max(top, s.low))
	if s.settled {
		if top == s.found {
			return
		}
		s.restart()
	}
	s.low = max(s.low, top)
	if s.low >= s.high { // what counted as too large came through after all
		s.high = s.limit + step
	}
	for _, size := range sent {
		if size <= top {
			continue
		}
		if s.misses[size]++; s.misses[size] >= s.enough() {
			s.high = min(s.high, size)
		}
	}
	maps.DeleteFunc(s.misses, func(size, _ int) bool { return size <= s.low || size >= s.high })
	if s.low+step >= s.high {
		s.found, s.settled = s.low, true
	}
}

// weigh counts what was lost of probes that the path carries: those of up to a size that was answered.
func (s *search) weigh(sent, answered []int, carries int) {
	for _, size := range sent {
		switch {
		case slices.Contains(answered, size):
			s.came++
		case size <= carries:
			s.gone++
		}
	}
	if s.came+s.gone > memory {
		s.came, s.gone = s.came/2, s.gone/2
	}
}

// enough is how many misses make a size too large: so many that as much loss as there may be makes them one time in 10,000. The
// rate of loss is taken for two standard deviations more than it seems, and with one probe more on each side (Laplace's rule): of
// a few probes none may be lost by chance.
func (s *search) enough() int {
	all := float64(s.came + s.gone + 2)
	loss := float64(s.gone+1) / all
	loss = min(loss+2*math.Sqrt(loss*(1-loss)/all), 0.99)
	return min(max(tries, int(math.Ceil(math.Log(falsely)/math.Log(loss)))), maxTries)
}

// unheard takes a round without any answer: the other end is away, or the path carries less than what was sent.
func (s *search) unheard() {
	if s.silent++; s.silent <= tries { // after that the peer is away, which says nothing of the line
		s.gone++
	}
	if s.settled || s.lost() && s.low != 0 {
		s.restart()
	}
}

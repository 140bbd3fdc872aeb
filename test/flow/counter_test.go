package flow

import "testing"

func TestCounter(t *testing.T) {
	span := func(from, to uint64) []uint64 {
		var s []uint64
		for ; from < to; from++ {
			s = append(s, from)
		}
		return s
	}
	join := func(parts ...[]uint64) []uint64 {
		var s []uint64
		for _, p := range parts {
			s = append(s, p...)
		}
		return s
	}
	tests := []struct {
		name                            string
		arrivals                        []uint64
		sent                            uint64
		received, duplicated, reordered uint64
		gap                             uint64
	}{
		{"nothing sent", nil, 0, 0, 0, 0, 0},
		{"nothing came", nil, 1000, 0, 0, 0, 1000},
		{"all came", span(0, 1000), 1000, 1000, 0, 0, 0},
		{"the end is missing", span(0, 900), 1000, 900, 0, 0, 100},
		{"the start is missing", span(70, 1000), 1000, 930, 0, 0, 70},
		{"a gap across words", join(span(0, 60), span(200, 1000)), 1000, 860, 0, 0, 140},
		{"two gaps", join(span(0, 10), span(13, 20), span(25, 64)), 64, 56, 0, 0, 5},
		{"one each, every second", []uint64{0, 2, 4, 6}, 8, 4, 0, 0, 1},
		{"twice", []uint64{0, 1, 1, 2, 0}, 3, 3, 2, 0, 0},
		{"late", []uint64{0, 3, 1, 2, 4}, 5, 5, 0, 2, 0},
		{"late and twice", []uint64{1, 0, 0}, 2, 2, 1, 1, 0},
		{"absurd number", []uint64{0, 1 << 60}, 1, 1, 0, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var c Counter
			for _, seq := range tt.arrivals {
				c.Add(seq)
			}
			if c.Received != tt.received || c.Duplicated != tt.duplicated || c.Reordered != tt.reordered {
				t.Errorf("received %d, duplicated %d, reordered %d; want %d, %d, %d",
					c.Received, c.Duplicated, c.Reordered, tt.received, tt.duplicated, tt.reordered)
			}
			if gap := c.LongestGap(tt.sent); gap != tt.gap {
				t.Errorf("longest gap %d, want %d", gap, tt.gap)
			}
		})
	}
}

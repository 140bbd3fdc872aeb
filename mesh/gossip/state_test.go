package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
)

func decodeAll(buf []byte) (map[string][]byte, error) {
	records := make(map[string][]byte)
	err := decodeState(buf, func(node string, raw []byte) { records[node] = raw })
	return records, err
}

func TestStateRoundTrip(t *testing.T) {
	want := map[string][]byte{
		"n1":                     []byte("a"),
		"n2.example.com":         make([]byte, 512),
		strings.Repeat("n", 253): {0},
	}
	got, err := decodeAll(encodeState(want))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %v, %v; want %v", got, err, want)
	}
	if got := encodeState(nil); got != nil {
		t.Errorf("nothing is encoded as %x", got)
	}
}

// The bytes that agents of other versions see.
func TestStateBytes(t *testing.T) {
	got := encodeState(map[string][]byte{"n1": []byte("record")})
	if want := []byte("\x01\x02n1\x06record"); !bytes.Equal(got, want) {
		t.Errorf("encoded %q, want %q", got, want)
	}
}

func TestStateSkipsWhatOthersWouldRefuse(t *testing.T) {
	got, err := decodeAll(encodeState(map[string][]byte{"n1": []byte("a"), "n2": nil, "n3": make([]byte, 513), "a b": {1}}))
	if want := map[string][]byte{"n1": []byte("a")}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %v, %v; want %v", got, err, want)
	}
}

// More than fits is sent in parts, another choice each time.
func TestStateIsBounded(t *testing.T) {
	all := make(map[string][]byte)
	for i := range 3000 {
		all[fmt.Sprintf("node-%d", i)] = make([]byte, 500)
	}
	got := make(map[string][]byte)
	for range 20 {
		buf := encodeState(all)
		if len(buf) > maxStateSize {
			t.Fatalf("%d bytes, at most %d", len(buf), maxStateSize)
		}
		part, err := decodeAll(buf)
		if err != nil {
			t.Fatal(err)
		}
		for node, raw := range part {
			got[node] = raw
		}
	}
	if len(got) != len(all) {
		t.Errorf("%d of %d records in 20 rounds", len(got), len(all))
	}
}

func TestStateRefuses(t *testing.T) {
	good := "\x01\x02n1\x06record"
	tests := map[string]struct {
		buf  string
		want error
	}{
		"version":           {"\x02" + good[1:], errStateVersion},
		"cut short":         {good[:len(good)-1], errStateMalformed},
		"no record":         {good[:4], errStateMalformed},
		"empty name":        {"\x01\x00\x06record", errStateMalformed},
		"empty record":      {"\x01\x02n1\x00", errStateMalformed},
		"slash in name":     {"\x01\x02n/\x06record", errStateMalformed},
		"long name":         {"\x01\xfe\x01" + strings.Repeat("n", 254) + "\x01r", errStateMalformed},
		"long record":       {"\x01\x02n1\x81\x04" + strings.Repeat("r", 513), errStateMalformed},
		"overflow":          {"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01n", errStateMalformed},
		"largest length":    {"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01n", errStateMalformed},
		"one good, one bad": {good + "\x02", errStateMalformed},
		"too much":          {"\x01" + strings.Repeat("\x02n1\x01r", maxStateSize/5+1), errStateMalformed},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := decodeAll([]byte(tt.buf))
			if !errors.Is(err, tt.want) {
				t.Errorf("error %v, want %v", err, tt.want)
			}
			if len(got) > 0 {
				t.Errorf("of a refused state %q is taken", got)
			}
		})
	}
}

// FuzzMergeRemoteState gives bytes as another member's state: whatever they are, no panic, and what is heard is
// within bounds.
func FuzzMergeRemoteState(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(encodeState(map[string][]byte{"n1": []byte("record")}))
	f.Add(encodeState(map[string][]byte{"n1": make([]byte, 512), "n2": {1}}))
	f.Add([]byte("\x01\x02n1\x06record\x02"))
	f.Add([]byte("\x02"))
	f.Add([]byte("\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01n"))
	f.Fuzz(func(t *testing.T, buf []byte) {
		tally := newTally()
		g := &Gossip{book: newBook("self/0"), tally: tally, news: make(chan struct{}, 1),
			log: slog.New(slog.DiscardHandler)}
		given := bytes.Clone(buf)
		delegate{g}.MergeRemoteState(buf, true)
		if !bytes.Equal(buf, given) {
			t.Error("the buffer was written to")
		}
		heard := g.Heard()
		if refused := tally.counts()[reasonState] > 0; refused && len(heard) > 0 {
			t.Errorf("refused, and heard %v", heard)
		}
		if len(heard) > 0 != (len(g.news) > 0) {
			t.Errorf("%d heard, news %d", len(heard), len(g.news))
		}
		for _, h := range heard {
			if h.Alive || h.From.IsValid() || checkNodeName(h.Node) != nil || len(h.Raw) == 0 || len(h.Raw) > 512 {
				t.Errorf("heard %+v", h)
			}
		}
		if again, err := decodeAll(buf); err == nil {
			if back, err := decodeAll(encodeState(again)); err != nil || !reflect.DeepEqual(back, again) {
				t.Errorf("encoding again gives %v, %v; want %v", back, err, again)
			}
		}
	})
}

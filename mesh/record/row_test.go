package record_test

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/record"
)

func rowRequests() map[string]record.RowRequest {
	return map[string]record.RowRequest{
		"row-request":         {From: sender, Sequence: sequence},
		"row-request-largest": {From: strings.Repeat("n", 253), Sequence: math.MaxUint64},
	}
}

// row has cells of so many nodes.
func row(from string, answers uint64, cells int, cell record.RowCell) record.Row {
	r := record.Row{From: from, Answers: answers}
	for i := range cells {
		c := cell
		c.Node = record.TagOf(fmt.Sprint("node-", i))
		r.Cells = append(r.Cells, c)
	}
	slices.SortFunc(r.Cells, func(a, b record.RowCell) int { return bytes.Compare(a.Node[:], b.Node[:]) })
	return r
}

func rows() map[string]record.Row {
	return map[string]record.Row{
		"row":       row(sender, sequence, 3, record.RowCell{Up: true, RTT: 1234 * time.Microsecond, Lost: 1, Probes: 20}),
		"row-empty": {From: sender, Answers: sequence},
	}
}

// largestRow has as many cells as there may be, with the largest numbers.
func largestRow() record.Row {
	return row(strings.Repeat("n", 253), math.MaxUint64, record.MaxRowCells,
		record.RowCell{Up: true, RTT: math.MaxUint32 * time.Microsecond, Lost: math.MaxUint8 - 1, Probes: math.MaxUint8})
}

func signRowRequest(t testing.TB, id keys.Identity, r record.RowRequest) []byte {
	t.Helper()
	raw, err := record.SignRowRequest(r, name, receiver, id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func signRow(t testing.TB, id keys.Identity, r record.Row) []byte {
	t.Helper()
	raw, err := record.SignRow(r, name, receiver, id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestRowRoundTrip(t *testing.T) {
	id := identity(t)
	for variant, want := range rowRequests() {
		raw := signRowRequest(t, id, want)
		got, err := record.OpenRowRequest(raw, name, receiver, knows(id.Public()))
		if err != nil || got != want {
			t.Errorf("%s: opened %+v, %v; want %+v", variant, got, err, want)
		}
		checkGolden(t, variant, raw)
	}
	for variant, want := range rows() {
		raw := signRow(t, id, want)
		got, err := record.OpenRow(raw, name, receiver, knows(id.Public()))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: opened %+v, %v; want %+v", variant, got, err, want)
		}
		checkGolden(t, variant, raw)
	}
}

// The sizes that the constants' comments name, and what a row of a mesh of 200 nodes comes to.
func TestRowSizes(t *testing.T) {
	id := identity(t)
	if size := len(signRowRequest(t, id, rowRequests()["row-request-largest"])); size != 333 {
		t.Errorf("the largest request has %d bytes, and MaxRowRequestSize says 333", size)
	}
	raw := signRow(t, id, largestRow())
	if got, err := record.OpenRow(raw, name, receiver, knows(id.Public())); err != nil || !reflect.DeepEqual(got, largestRow()) {
		t.Errorf("the largest row isn't opened: %v", err)
	}
	if len(raw) != 41297 {
		t.Errorf("the largest row has %d bytes, and MaxRowSize says 41,297", len(raw))
	}
	usual := row("worker-1", 1<<40, 199, record.RowCell{Up: true, RTT: 1234 * time.Microsecond, Lost: 1, Probes: 20})
	if size := len(signRow(t, id, usual)); size < 3200 || size > 3400 {
		t.Errorf("a row of 199 cells has %d bytes, and MaxRowSize says about 3,300", size)
	}
}

func TestSignRowRefuses(t *testing.T) {
	id := identity(t)
	cells := func(change func(c []record.RowCell)) func(*record.Row) {
		return func(r *record.Row) {
			r.Cells = slices.Clone(r.Cells)
			change(r.Cells)
		}
	}
	for what, change := range map[string]func(*record.Row){
		"no sender":           func(r *record.Row) { r.From = "" },
		"a name not in UTF-8": func(r *record.Row) { r.From = "node\xff" },
		"no question":         func(r *record.Row) { r.Answers = 0 },
		"too many cells":      func(r *record.Row) { r.Cells = row(sender, 1, record.MaxRowCells+1, record.RowCell{}).Cells },
		"a node twice":        cells(func(c []record.RowCell) { c[1].Node = c[0].Node }),
		"disorder":            cells(func(c []record.RowCell) { c[0], c[1] = c[1], c[0] }),
		"more lost than sent": cells(func(c []record.RowCell) { c[1].Lost = 21 }),
		"time without answer": cells(func(c []record.RowCell) { c[1].Lost = 20 }),
		"negative time":       cells(func(c []record.RowCell) { c[1].RTT = -time.Microsecond }),
		"a time too exact":    cells(func(c []record.RowCell) { c[1].RTT = time.Nanosecond }),
		"a time too long":     cells(func(c []record.RowCell) { c[1].RTT = (math.MaxUint32 + 1) * time.Microsecond }),
	} {
		r := rows()["row"]
		change(&r)
		if raw, err := record.SignRow(r, name, receiver, id); err == nil || raw != nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, want an error that names the node", what, err)
		}
	}
	for what, r := range map[string]record.RowRequest{"no sender": {Sequence: 1}, "no sequence": {From: sender}} {
		if raw, err := record.SignRowRequest(r, name, receiver, id); err == nil || raw != nil {
			t.Errorf("a request with %s is signed", what)
		}
	}
}

// The tag of a name is a contract between versions, and those of many differ.
func TestTags(t *testing.T) {
	if got := fmt.Sprintf("%x", record.TagOf("node-1")); got != "468d48dc84641ba6" {
		t.Errorf("the tag of node-1 is %s", got)
	}
	seen := map[record.NodeTag]bool{}
	for i := range 10_000 {
		tag := record.TagOf(fmt.Sprint("node-", i))
		if seen[tag] {
			t.Fatalf("two nodes have the tag %x", tag)
		}
		seen[tag] = true
	}
}

func FuzzOpenRowRequest(f *testing.F) {
	id := identity(f)
	for _, r := range rowRequests() {
		raw := signRowRequest(f, id, r)
		f.Add(raw)
		f.Add(raw[66:])
	}
	f.Add([]byte("q"))
	fuzzLetter(f, id, "weaveguard row request v1", []byte{'q', 1}, record.OpenRowRequest, record.SignRowRequest)
}

func FuzzOpenRow(f *testing.F) {
	id := identity(f)
	for _, r := range rows() {
		raw := signRow(f, id, r)
		f.Add(raw)
		f.Add(raw[66:])
	}
	f.Add([]byte("m"))
	fuzzLetter(f, id, "weaveguard row v1", []byte{'m', 1}, record.OpenRow, record.SignRow)
}

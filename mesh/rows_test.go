package mesh_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh"
	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// byAgent knows the agent's identity alone.
func (w *world) byAgent(string) (keys.PublicIdentity, bool) {
	return w.self.store.Identity().Public(), true
}

// rowRequests are the questions that the agent asked since it was asked last, by node.
func (w *world) rowRequests(t *testing.T, of ...*speaker) map[string]record.RowRequest {
	t.Helper()
	all := map[string]record.RowRequest{}
	messages, nodes := w.air.sentOf(record.RowRequestKind)
	for i, raw := range messages {
		to := of[slices.IndexFunc(of, func(s *speaker) bool { return s.name == nodes[i] })]
		r, err := record.OpenRowRequest(raw, to.name, to.store.Identity().Public(), w.byAgent)
		if _, twice := all[to.name]; err != nil || twice || r.From != "a" {
			t.Fatalf("%s is asked %+v, %v", to.name, r, err)
		}
		all[to.name] = r
	}
	return all
}

// measured is a row of the node, for the agent.
func (s *speaker) measured(t *testing.T, w *world, answers uint64, cells ...record.RowCell) []byte {
	t.Helper()
	slices.SortFunc(cells, func(a, b record.RowCell) int { return bytes.Compare(a.Node[:], b.Node[:]) })
	raw, err := record.SignRow(record.Row{From: s.name, Answers: answers, Cells: cells}, "a", w.self.store.Identity().Public(), s.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// wants is a node's question for the agent's row.
func (s *speaker) wants(t *testing.T, w *world, sequence uint64) []byte {
	t.Helper()
	raw, err := record.SignRowRequest(record.RowRequest{From: s.name, Sequence: sequence}, "a", w.self.store.Identity().Public(), s.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// matrixRow is a node's row.
func matrixRow(m view.Matrix, node string) view.MatrixRow {
	i := slices.IndexFunc(m.Rows, func(r view.MatrixRow) bool { return r.Node == node })
	if i < 0 {
		return view.MatrixRow{Node: "there is no row of " + node}
	}
	return m.Rows[i]
}

// Others are asked when somebody looks, and no more often than every 2 s, and what they answer is theirs alone to say.
func TestMatrixAsksTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c, d := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c"), newSpeaker(t, 4, "d")
	w.cluster.set(w.self.node(), b.node(), c.node(), d.node())
	away := d.says(t, nil)
	away.Alive = false
	w.air.say(b.says(t, nil), c.says(t, nil), away)
	w.kernel.sessions[b.key()] = time.Now()
	w.config.Meter = &meter{measured: map[string]view.Measured{"b": {RTT: 3 * time.Millisecond, Lost: 5, Probes: 20}}}
	a := w.start(t)
	passes(a)
	if asked := w.rowRequests(t, b, c, d); len(asked) > 0 {
		t.Errorf("asked are %v, and nobody looks", asked)
	}
	looked := time.Now()
	m := a.Matrix(t.Context())
	if got := matrixRow(m, "a"); m.Node != "a" || len(m.Rows) != 4 || !got.Heard.Equal(m.Time) || !slices.Equal(got.Cells, []view.MatrixCell{
		{Node: "b", Up: true, RTT: 0.003, Loss: 0.25, Probes: 20}, {Node: "c"}, {Node: "d"},
	}) {
		t.Errorf("at once it is %+v, want the own row", m)
	}
	if got := matrixRow(m, "b"); !got.Heard.IsZero() || got.Cells == nil || len(got.Cells) > 0 {
		t.Errorf("unheard b's row is %+v", got)
	}
	passes(a)
	asked := w.rowRequests(t, b, c, d)
	if len(asked) != 2 || asked["b"].Sequence == 0 || asked["c"].Sequence == 0 {
		t.Fatalf("asked are %v, want b and c, which are alive", asked)
	}
	began := time.Now()
	number := asked["b"].Sequence
	cell := func(node string, lost uint8) record.RowCell {
		return record.RowCell{Node: record.TagOf(node), Up: true, RTT: 2 * time.Millisecond, Lost: lost, Probes: 20}
	}
	other, err := record.SignRow(record.Row{From: "b", Answers: number}, "c", c.store.Identity().Public(), b.store.Identity())
	if err != nil {
		t.Fatal(err)
	}
	w.air.tell(b.measured(t, w, number-1, cell("a", 9)), d.measured(t, w, number, cell("a", 9)), newSpeaker(t, 5, "b").measured(t, w, number),
		other, []byte{record.RowKind})
	passes(a)
	if m = a.Matrix(t.Context()); !matrixRow(m, "b").Heard.IsZero() || !matrixRow(m, "d").Heard.IsZero() {
		t.Errorf("of an earlier answer, one that wasn't asked, a forged one, one to c and one of nothing came %+v", m)
	}
	if n := a.pass().Counters.Refused["row"]; n != 3 {
		t.Errorf("%d rows are refused and counted, want 3: the forged one, that to c, and that of nothing", n)
	}
	w.air.tell(b.measured(t, w, number, cell("a", 2), cell("c", 0), cell("b", 3), cell("nobody", 4)),
		b.measured(t, w, number, cell("a", 19))) // one answer is enough
	passes(a)
	m = a.Matrix(t.Context())
	want := []view.MatrixCell{{Node: "a", Up: true, RTT: 0.002, Loss: 0.1, Probes: 20}, {Node: "c", Up: true, RTT: 0.002, Probes: 20}}
	if got := matrixRow(m, "b"); !slices.Equal(got.Cells, want) || got.Heard.Before(began) || got.Heard.After(m.Time) {
		t.Errorf("b's row is %+v, want %+v", got, want)
	}
	a.until("they are asked again", func(view.Status) bool {
		a.Matrix(t.Context())
		asked = w.rowRequests(t, b, c, d)
		return len(asked) > 0
	})
	if took := time.Since(looked); took < 2*time.Second || asked["b"].Sequence <= number {
		t.Errorf("they are asked again after %s: %v", took, asked)
	}
	if got := matrixRow(a.Matrix(t.Context()), "b"); !slices.Equal(got.Cells, want) {
		t.Errorf("until b answers again, its row is %+v", got)
	}
	w.cluster.set(w.self.node(), c.node(), d.node())
	a.pass()
	if m = a.Matrix(t.Context()); len(m.Rows) != 3 {
		t.Errorf("without b it is %+v", m)
	}
	w.cluster.set(w.self.node(), b.node(), c.node(), d.node())
	w.air.say(b.says(t, nil), c.says(t, nil), away)
	a.pass()
	if got := matrixRow(a.Matrix(t.Context()), "b"); !got.Heard.IsZero() {
		t.Errorf("what b said before it was gone counts: %+v", got)
	}
}

// Who asks is told what was measured here, it alone, once for each question, and not too often.
func TestOwnRowIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	b, c := newSpeaker(t, 2, "b"), newSpeaker(t, 3, "c")
	w.cluster.set(w.self.node(), b.node(), c.node())
	w.air.say(b.says(t, nil), c.says(t, nil))
	w.kernel.sessions[b.key()] = time.Now()
	w.config.Meter = &meter{measured: map[string]view.Measured{"b": {RTT: 3*time.Millisecond + 1, Lost: 5, Probes: 20}, "c": {Lost: 20, Probes: 20}}}
	a := w.start(t)
	rows := func() (all []record.Row) {
		messages, nodes := w.air.sentOf(record.RowKind)
		for i, raw := range messages {
			r, err := record.OpenRow(raw, "b", b.store.Identity().Public(), w.byAgent)
			if err != nil || nodes[i] != "b" {
				t.Fatalf("%s is told %+v, %v", nodes[i], r, err)
			}
			all = append(all, r)
		}
		return all
	}
	question := b.wants(t, w, 7)
	w.air.tell(question, question, b.wants(t, w, 6), newSpeaker(t, 5, "c").wants(t, w, 9), newSpeaker(t, 6, "x").wants(t, w, 9), []byte{record.RowRequestKind})
	passes(a)
	got := rows()
	cells := []record.RowCell{
		{Node: record.TagOf("b"), Up: true, RTT: 3 * time.Millisecond, Lost: 5, Probes: 20}, {Node: record.TagOf("c"), Lost: 20, Probes: 20},
	}
	slices.SortFunc(cells, func(a, b record.RowCell) int { return bytes.Compare(a.Node[:], b.Node[:]) })
	if len(got) != 1 || got[0].From != "a" || got[0].Answers != 7 || !slices.Equal(got[0].Cells, cells) {
		t.Errorf("b is told %+v, want once %+v", got, cells)
	}
	if n := a.pass().Counters.Refused["row-request"]; n != 2 {
		t.Errorf("%d questions are refused and counted, want 2: the forged one and that of nothing", n)
	}
	w.air.tell(question)
	if passes(a); len(rows()) > 0 {
		t.Error("a question that came again is answered again")
	}
	w.kernel.mu.Lock()
	w.kernel.fail["look at tunnels"] = errors.New("no")
	w.kernel.mu.Unlock()
	w.air.tell(b.wants(t, w, 8))
	if passes(a); len(rows()) > 0 {
		t.Error("an agent that can't see which links are up tells of them")
	}
	w.kernel.mu.Lock()
	delete(w.kernel.fail, "look at tunnels")
	w.kernel.mu.Unlock()
	var flood [][]byte
	for i := range 20 {
		flood = append(flood, b.wants(t, w, uint64(10+i)))
	}
	w.air.tell(flood...)
	passes(a)
	answered, limited := len(rows()), a.pass().Counters.Refused["row-request-rate"]
	if answered == 0 || answered > 4 || limited < 14 {
		t.Errorf("of 20 questions at once %d are answered, and %d refused", answered, limited)
	}
}

// In a large mesh the others are asked a few at a time, each once, and all of them.
func TestMatrixOfManyNodes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const many = 70
	all, nodes, heard := []*speaker(nil), []mesh.ClusterNode{w.self.node()}, []mesh.Heard(nil)
	for i := range many {
		s := newSpeaker(t, i+2, fmt.Sprint("n", i))
		all, nodes, heard = append(all, s), append(nodes, s.node()), append(heard, s.says(t, nil))
	}
	w.cluster.set(nodes...)
	w.air.say(heard...)
	a := w.start(t)
	passes(a)
	w.rowRequests(t, all...)
	asked, began := map[string]bool{}, time.Now()
	a.Matrix(t.Context())
	a.until("all are asked", func(view.Status) bool {
		for node := range w.rowRequests(t, all...) {
			if asked[node] {
				t.Errorf("%s is asked twice", node)
			}
			asked[node] = true
		}
		return len(asked) == many
	})
	if took := time.Since(began); took < 450*time.Millisecond { // 32 each quarter of a second
		t.Errorf("all %d are asked within %s", many, took)
	}
}

package mesh_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// stuck is a firewall that somebody can hold up.
type stuck struct {
	rules
	gate chan struct{} // closed: it goes on
}

func (s *stuck) Apply(ctx context.Context, f view.Firewall) (int, error) {
	<-s.gate
	return s.rules.Apply(ctx, f)
}

// An agent whose loop hangs isn't alive any more after two minutes, which has /healthz fail, and is again when the loop goes on. A
// quiet one is, and so is one whose peer is away.
func TestHangingLoopIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		b := newSpeaker(t, 2, "b")
		w.cluster.set(w.self.node(), b.node()) // which never says anything
		firewall := &stuck{rules: rules{w.kernel}, gate: make(chan struct{})}
		w.config.Firewall = firewall
		close(firewall.gate)
		a := w.start(t)
		time.Sleep(time.Hour)
		if err := a.Alive(); err != nil {
			t.Fatalf("after an hour in which nothing happened: %v", err)
		}
		synctest.Wait()
		gate := make(chan struct{})
		firewall.gate = gate
		time.Sleep(5 * time.Minute)
		if err := a.Alive(); err == nil || !strings.Contains(err.Error(), "the loop ran") {
			t.Errorf("while the loop hangs it is alive: %v", err)
		}
		close(gate)
		synctest.Wait()
		if err := a.Alive(); err != nil {
			t.Errorf("the loop goes on: %v", err)
		}
	})
}

package mesh_test

import (
	"slices"
	"testing"
)

// attachable names the networks that pods can be attached to beside the default one.
func attachable(k *kernel) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var names []string
	for _, n := range k.ready.Networks {
		names = append(names, n.Name)
	}
	return names
}

// No pod may be attached to a network before everything stands; once it did, a fault doesn't close it again, not even to an
// agent that starts then. One that is another than it was counts as new.
func TestNetworksOpenOnceEverythingStands(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	config := &configuration{}
	config.set(subnet("blue", 50, 1))
	w.config.Networks = config
	w.cluster.set(w.self.node())
	a := w.start(t)
	wants := func(what string, want ...string) {
		t.Helper()
		a.pass()
		if got := attachable(w.kernel); !slices.Equal(got, want) {
			t.Errorf("%s: pods can be attached to %v, want %v", what, got, want)
		}
	}
	wants("all stands", "blue")
	setFault(w.kernel, "firewall", errBroken)
	config.set(subnet("blue", 50, 1), subnet("red", 60, 1))
	wants("red is new, and a fault", "blue")
	a.stop()
	a = w.start(t)
	wants("after a restart", "blue")
	setFault(w.kernel, "firewall", nil)
	wants("the fault is over", "blue", "red")
	setFault(w.kernel, "routes", errBroken)
	config.set(subnet("blue", 50, 2), subnet("red", 60, 1))
	wants("blue has another subnet, and a fault", "red")
	config.set()
	setFault(w.kernel, "routes", nil)
	wants("none is configured")
}

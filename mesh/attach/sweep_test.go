package attach_test

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/attach"
)

// attached stores an attachment as ADD does, and returns it.
func attached(t *testing.T, dir, container, address string) store.Attachment {
	t.Helper()
	id := store.ID{ContainerID: container, IfName: "eth0"}
	a := store.Attachment{ID: id, HostIfName: id.HostInterface(), Addresses: []netip.Addr{netip.MustParseAddr(address)}, Created: time.Now().UTC()}
	keep(t, dir, a)
	return a
}

// keep stores an attachment, whose addresses nobody else has.
func keep(t *testing.T, dir string, a store.Attachment) {
	t.Helper()
	change(t, dir, func(tx *store.Tx) error {
		for _, address := range a.Addresses {
			if ok, err := tx.Reserve(a.ID, address); err != nil || !ok {
				t.Fatal(ok, err)
			}
		}
		return tx.Put(a)
	})
}

// drop removes an attachment, as a plugin does.
func drop(t *testing.T, dir string, id store.ID) {
	t.Helper()
	change(t, dir, func(tx *store.Tx) error { return tx.Remove(id) })
}

// change does something to a store, which must succeed.
func change(t *testing.T, dir string, do func(tx *store.Tx) error) {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	tx := lock(t, s)
	defer func() { _ = tx.Unlock() }()
	if err := do(tx); err != nil {
		t.Fatal(err)
	}
}

// stored are the containers of the store.
func stored(t *testing.T, dir string) []string {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, a := range all {
		names = append(names, a.ContainerID)
	}
	return names
}

// An attachment is forgotten once its interface has been gone for ten seconds, and its address is free again. Of those
// whose interface is there, comes back, or isn't made yet, none is.
func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := host(t)
		var present []net.Interface
		cfg.Interfaces = func() ([]net.Interface, error) { return present, nil }
		a := attach.New(cfg)
		apply(t, a, ready(), 4)
		interfaceOf := func(at store.Attachment) net.Interface { return net.Interface{Name: at.HostIfName} }
		kept, gone := attached(t, cfg.StoreDir, "kept", "10.32.5.2"), attached(t, cfg.StoreDir, "gone", "10.32.5.3")
		back := attached(t, cfg.StoreDir, "back", "10.32.5.4")
		present = []net.Interface{interfaceOf(kept), interfaceOf(gone), interfaceOf(back)}
		time.Sleep(time.Minute)
		apply(t, a, ready(), 0)
		present = []net.Interface{interfaceOf(kept)}
		apply(t, a, ready(), 0)
		time.Sleep(9 * time.Second)
		apply(t, a, ready(), 0)
		present = []net.Interface{interfaceOf(kept), interfaceOf(back)}
		young := attached(t, cfg.StoreDir, "young", "10.32.5.5")
		apply(t, a, ready(), 0)
		present = []net.Interface{interfaceOf(kept)} // it is missed from now on
		time.Sleep(2 * time.Second)
		apply(t, a, ready(), 1)
		if got := stored(t, cfg.StoreDir); !slices.Equal(got, []string{"back", "kept", "young"}) {
			t.Errorf("stored are %v", got)
		}
		attached(t, cfg.StoreDir, "next", gone.Addresses[0].String())
		present = append(present, interfaceOf(young))
		time.Sleep(8 * time.Second)
		apply(t, a, ready(), 0)
		time.Sleep(3 * time.Second)
		apply(t, a, ready(), 1)
		if got := stored(t, cfg.StoreDir); !slices.Equal(got, []string{"kept", "next", "young"}) {
			t.Errorf("stored are %v", got)
		}
	})
}

// The clock may be set back while a pod runs, and the pod end before it has caught up.
func TestSweepOfWhatWasMadeInTheFuture(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := host(t)
		cfg.Interfaces = func() ([]net.Interface, error) { return nil, nil }
		id := store.ID{ContainerID: "gone", IfName: "eth0"}
		keep(t, cfg.StoreDir, store.Attachment{ID: id, HostIfName: id.HostInterface(), Created: time.Now().Add(time.Hour)})
		a := attach.New(cfg)
		apply(t, a, ready(), 4)
		time.Sleep(11 * time.Second)
		apply(t, a, ready(), 1)
		if got := stored(t, cfg.StoreDir); len(got) > 0 {
			t.Errorf("stored are %v", got)
		}
	})
}

// While the node is closed, sandboxes end without a word too, and files of the store are removed by hand: a node may be closed
// until nothing is attached any more, and as long as something is.
func TestSweepWhileClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := host(t)
		var present []net.Interface
		cfg.Interfaces = func() ([]net.Interface, error) { return present, nil }
		a := attach.New(cfg)
		kept, gone := attached(t, cfg.StoreDir, "kept", "10.32.5.2"), attached(t, cfg.StoreDir, "gone", "10.32.5.3")
		present = []net.Interface{{Name: kept.HostIfName}, {Name: gone.HostIfName}}
		apply(t, a, nil, 0)
		present = present[:1]
		apply(t, a, nil, 0)
		if err := os.RemoveAll(cfg.StoreDir); err != nil {
			t.Fatal(err)
		}
		keep(t, cfg.StoreDir, gone)
		apply(t, a, nil, 1)
		if got := stored(t, cfg.StoreDir); !slices.Equal(got, []string{"gone", "kept"}) {
			t.Errorf("stored are %v", got)
		}
		time.Sleep(11 * time.Second)
		apply(t, a, nil, 1)
		if got := stored(t, cfg.StoreDir); !slices.Equal(got, []string{"kept"}) {
			t.Errorf("stored are %v", got)
		}
		apply(t, a, nil, 0)
	})
}

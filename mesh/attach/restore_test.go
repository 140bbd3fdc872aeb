package attach_test

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/attach"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// Attachments that somebody removes by hand while their pods run come back with their addresses. Those that the plugin removed,
// which are without an interface, don't; nor do those whose address another pod has by now, which is told.
func TestRestore(t *testing.T) {
	cfg := host(t)
	var present []net.Interface
	cfg.Interfaces = func() ([]net.Interface, error) { return present, nil }
	a := attach.New(cfg)
	apply(t, a, ready(), 4)
	for container, address := range map[string]string{"kept": "10.32.5.2", "taken": "10.32.5.3", "detached": "10.32.5.4"} {
		at := attached(t, cfg.StoreDir, container, address)
		if container != "detached" {
			present = append(present, net.Interface{Name: at.HostIfName})
		}
	}
	apply(t, a, ready(), 0)
	if err := os.RemoveAll(cfg.StoreDir); err != nil {
		t.Fatal(err)
	}
	taker := attached(t, cfg.StoreDir, "taker", "10.32.5.3")
	present = append(present, net.Interface{Name: taker.HostIfName})
	ctx, changes := view.WithChanges(t.Context())
	writes, err := a.Apply(ctx, ready())
	if writes != 1 || err == nil || !strings.Contains(err.Error(), "10.32.5.3") || !strings.Contains(err.Error(), "another pod") {
		t.Errorf("%d writes, %v", writes, err)
	}
	if len(changes.Made) != 1 || !strings.Contains(changes.Made[0], "10.32.5.2") {
		t.Errorf("it tells of %v", changes.Made)
	}
	if got := stored(t, cfg.StoreDir); !slices.Equal(got, []string{"kept", "taker"}) {
		t.Errorf("stored are %v", got)
	}
	change(t, cfg.StoreDir, func(tx *store.Tx) error {
		if free, err := tx.Reserve(store.ID{ContainerID: "next", IfName: "eth0"}, taker.Addresses[0].Prev()); err != nil || free {
			t.Errorf("the address that came back is free (%v)", err)
		}
		return nil
	})
	// Two pods have one address: that is told until one of them is gone.
	if writes, err := a.Apply(t.Context(), ready()); writes != 0 || err == nil || !strings.Contains(err.Error(), "another pod") {
		t.Errorf("the second time there are %d writes, %v", writes, err)
	}
	present = slices.DeleteFunc(present, func(i net.Interface) bool { return i.Name == taker.HostIfName })
	drop(t, cfg.StoreDir, taker.ID)
	apply(t, a, ready(), 1)
	if got := stored(t, cfg.StoreDir); !slices.Equal(got, []string{"kept", "taken"}) {
		t.Errorf("without the other pod stored are %v", got)
	}
	apply(t, a, ready(), 0)
}

// An attachment whose file somebody damages is put back as it was while its pod runs, also when it is the only one. Those that the
// agent never read, or whose pod is gone, stay as they are.
func TestRestoreDamaged(t *testing.T) {
	for what, damage := range map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 0) },
		"garbled":   func(path string) error { return os.WriteFile(path, []byte("{]"), 0o600) },
	} {
		t.Run(what, func(t *testing.T) {
			cfg := host(t)
			var present []net.Interface
			cfg.Interfaces = func() ([]net.Interface, error) { return present, nil }
			a := attach.New(cfg)
			at := attached(t, cfg.StoreDir, "runs", "10.32.5.2")
			present = append(present, net.Interface{Name: at.HostIfName})
			apply(t, a, ready(), 4)
			w := watch(t, a)
			defer w.ends()
			w.hears("what happened before")
			files, err := filepath.Glob(filepath.Join(store.AttachmentsIn(cfg.StoreDir), "*.json"))
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			whole, err := os.ReadFile(files[0])
			if err != nil {
				t.Fatal(err)
			}
			w.settles()
			if err := damage(files[0]); err != nil {
				t.Fatal(err)
			}
			w.hears("the damage")
			if _, err := attach.New(cfg).Apply(t.Context(), ready()); err == nil {
				t.Error("an agent that never read the only attachment says nothing of it")
			}
			ctx, changes := view.WithChanges(t.Context())
			if writes, err := a.Apply(ctx, ready()); writes != 1 || err != nil {
				t.Errorf("%d writes, %v", writes, err)
			}
			if raw, err := os.ReadFile(files[0]); err != nil || string(raw) != string(whole) {
				t.Errorf("its file has %q, %v; want %q", raw, err, whole)
			}
			if len(changes.Made) != 1 || !strings.Contains(changes.Made[0], "10.32.5.2") {
				t.Errorf("it tells of %v", changes.Made)
			}
			change(t, cfg.StoreDir, func(tx *store.Tx) error {
				if free, err := tx.Reserve(store.ID{ContainerID: "next", IfName: "eth0"}, at.Addresses[0]); err != nil || free {
					t.Errorf("its address is free (%v)", err)
				}
				return nil
			})
			present = nil
			if err := damage(files[0]); err != nil {
				t.Fatal(err)
			}
			if writes, err := a.Apply(t.Context(), ready()); writes != 0 || err == nil {
				t.Errorf("after its pod went there are %d writes, %v", writes, err)
			}
		})
	}
}

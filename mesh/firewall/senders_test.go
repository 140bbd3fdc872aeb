package firewall_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netns"

	"github.com/weaveguard/weaveguard/cni/guard"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/firewall"
)

// While pods come and go, the agent changes the table in place: replacing it would take other pods' packets for spoofed
// ones for a moment.
func TestPodsComeAndGoUnderTheAgent(t *testing.T) {
	ns := newNamespace(t)
	dir := t.TempDir()
	s, err := store.Open(dir)
	must(t, err)
	var log bytes.Buffer // of this goroutine
	a := firewall.New(firewall.Config{StoreDir: dir, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if _, err := a.Apply(t.Context(), testFirewall()); err != nil {
		t.Fatal(err)
	}
	log.Reset()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine
		done <- comeAndGo(t, ns, s)
	}()
	for passes := 0; ; passes++ {
		if _, err := a.Apply(t.Context(), testFirewall()); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			must(t, err)
			if text := log.String(); strings.Contains(text, "replaced") {
				t.Errorf("in %d passes the table was replaced:\n%s", passes, text)
			}
			return
		default:
		}
	}
}

func comeAndGo(t *testing.T, ns netns.NsHandle, s *store.Store) error {
	if err := netns.Set(ns); err != nil {
		return err
	}
	change := func(do func(tx *store.Tx) error) error {
		tx, err := s.Lock(t.Context())
		if err != nil {
			return err
		}
		if err := do(tx); err != nil {
			return err
		}
		return tx.Unlock()
	}
	remover, err := guard.NewRemover()
	if err != nil {
		return err
	}
	for i := range 400 {
		id := store.ID{ContainerID: fmt.Sprintf("pod-%d", i), IfName: "eth0"}
		attachment := store.Attachment{
			ID: id, HostIfName: id.HostInterface(), MAC: "0a:58:0a:20:01:02", Addresses: []netip.Addr{netip.MustParseAddr("10.32.1.2")},
		}
		mac, err := net.ParseMAC(attachment.MAC)
		if err != nil {
			return err
		}
		port := guard.Port{Name: attachment.HostIfName, MAC: mac, Addresses: attachment.Addresses}
		for _, step := range []func() error{
			func() error {
				return change(func(tx *store.Tx) error {
					if _, err := tx.Reserve(id, attachment.Addresses[0]); err != nil {
						return err
					}
					return tx.Put(attachment)
				})
			},
			func() error { return guard.Add(port) },
			func() error { return remover.Remove(port) },
			func() error { return change(func(tx *store.Tx) error { return tx.Remove(id) }) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
	}
	return nil
}

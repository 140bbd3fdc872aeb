package store_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weaveguard/weaveguard/cni/store"
)

var equateAddrs = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func open(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func lock(t *testing.T, s *store.Store) *store.Tx {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tx, err := s.Lock(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return tx
}

func unlock(t *testing.T, tx *store.Tx) {
	t.Helper()
	if err := tx.Unlock(); err != nil {
		t.Fatal(err)
	}
}

func attachment(containerID string, addresses ...string) store.Attachment {
	a := store.Attachment{
		ID:           store.ID{ContainerID: containerID, IfName: "eth0"},
		Network:      "weaveguard",
		Bridge:       "weave",
		Netns:        "/run/netns/" + containerID,
		NetnsInode:   4026532000,
		PodNamespace: "default",
		PodName:      "web-" + containerID,
		PodUID:       "0d1f",
		MAC:          "0a:57:0a:20:05:02",
		MTU:          1420,
		Created:      time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	a.HostIfName = a.HostInterface()
	for _, s := range addresses {
		a.Addresses = append(a.Addresses, netip.MustParseAddr(s))
	}
	return a
}

// reserve reserves all addresses of an attachment, which must be free.
func reserve(t *testing.T, tx *store.Tx, a store.Attachment) {
	t.Helper()
	for _, address := range a.Addresses {
		if ok, err := tx.Reserve(a.ID, address); err != nil || !ok {
			t.Fatalf("Reserve(%s) = %v, %v; want true", address, ok, err)
		}
	}
}

func put(t *testing.T, tx *store.Tx, a store.Attachment) {
	t.Helper()
	reserve(t, tx, a)
	if err := tx.Put(a); err != nil {
		t.Fatal(err)
	}
}

func TestAttachmentLifecycle(t *testing.T) {
	s := open(t, t.TempDir())
	want := attachment("c1", "10.32.5.2", "fd00:5::2")
	tx := lock(t, s)
	put(t, tx, want)

	got, err := s.Get(want.ID)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, equateAddrs); diff != "" {
		t.Errorf("Get differs (-want +got):\n%s", diff)
	}
	if err := tx.Put(want); !errors.Is(err, store.ErrExists) {
		t.Errorf("second Put: %v, want ErrExists", err)
	}
	other := attachment("c2")
	if ok, err := tx.Reserve(other.ID, want.Addresses[0]); ok || err != nil {
		t.Errorf("Reserve of a taken address = %v, %v; want false", ok, err)
	}
	if ok, err := tx.Reserve(want.ID, want.Addresses[0]); ok || err != nil {
		t.Errorf("Reserve of an own, taken address = %v, %v; want false", ok, err)
	}
	for range 2 { // removing twice is right
		if err := tx.Remove(want.ID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Get(want.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get after Remove: %v, want ErrNotFound", err)
	}
	reserve(t, tx, attachment("c2", "10.32.5.2", "fd00:5::2"))
	unlock(t, tx)
}

func TestPutWantsReservedAddresses(t *testing.T) {
	s := open(t, t.TempDir())
	tx := lock(t, s)
	defer unlock(t, tx)
	if err := tx.Put(attachment("c1", "10.32.5.2")); err == nil {
		t.Error("Put took an address that nobody reserved")
	}
	put(t, tx, attachment("c2", "10.32.5.3"))
	if err := tx.Put(attachment("c1", "10.32.5.3")); err == nil {
		t.Error("Put took another attachment's address")
	}
}

func TestRemoveLeavesWhatIsOthers(t *testing.T) {
	s := open(t, t.TempDir())
	tx := lock(t, s)
	defer unlock(t, tx)
	put(t, tx, attachment("c1", "10.32.5.2"))
	put(t, tx, attachment("c2", "10.32.5.3"))
	if err := tx.Release(store.ID{ContainerID: "c1", IfName: "eth0"}, netip.MustParseAddr("10.32.5.3")); err != nil {
		t.Fatal(err)
	}
	if err := tx.Remove(store.ID{ContainerID: "c1", IfName: "eth0"}); err != nil {
		t.Fatal(err)
	}
	if n, err := s.InUse(netip.MustParsePrefix("10.32.5.0/24")); n != 1 || err != nil {
		t.Errorf("InUse = %d, %v; want 1", n, err)
	}
}

// IDs that sanitise alike, or differ only beyond what a file name keeps, are different attachments.
func TestIDsNeverCollide(t *testing.T) {
	s := open(t, t.TempDir())
	long := strings.Repeat("a", 200)
	ids := []store.ID{
		{ContainerID: "a.b", IfName: "eth0"}, {ContainerID: "a_b", IfName: "eth0"},
		{ContainerID: long + "1", IfName: "eth0"}, {ContainerID: long + "2", IfName: "eth0"},
		{ContainerID: "c", IfName: "e@0"}, {ContainerID: "c", IfName: "e#0"}, {ContainerID: "c", IfName: "net1"},
		{ContainerID: "../../etc", IfName: ".."},
	}
	tx := lock(t, s)
	defer unlock(t, tx)
	names := make(map[string]bool)
	for _, id := range ids {
		if err := tx.Put(store.Attachment{ID: id}); err != nil {
			t.Fatal(err)
		}
		names[id.HostInterface()] = true
		if n := len(id.HostInterface()); n > 15 {
			t.Errorf("the interface name %q has %d characters", id.HostInterface(), n)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != len(ids) || len(names) != len(ids) {
		t.Errorf("%d attachments, %d interface names, %v; want %d of each", len(all), len(names), err, len(ids))
	}
	byC, err := s.ByContainer("c")
	if err != nil || len(byC) != 3 {
		t.Errorf("ByContainer(c) = %v, %v; want its three interfaces", byC, err)
	}
	byLong, err := s.ByContainer(long + "2")
	if err != nil || len(byLong) != 1 || byLong[0].ContainerID != long+"2" {
		t.Errorf("ByContainer(long) = %v, %v; want one", byLong, err)
	}
}

func TestLast(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	tx := lock(t, s)
	defer unlock(t, tx)
	v4, v6 := netip.MustParsePrefix("10.32.5.0/24"), netip.MustParsePrefix("fd00:5::/64")
	if got := tx.Last(v4); got.IsValid() {
		t.Errorf("Last before SetLast = %s", got)
	}
	if err := os.Symlink("x", filepath.Join(dir, "last-10.32.5.0-24.tmp")); err != nil {
		t.Fatal(err) // as a killed process leaves it
	}
	for _, s := range []string{"10.32.5.7", "10.32.5.8"} {
		if err := tx.SetLast(v4, netip.MustParseAddr(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tx.SetLast(v6, netip.MustParseAddr("fd00:5::9")); err != nil {
		t.Fatal(err)
	}
	if a, b := tx.Last(v4), tx.Last(v6); a != netip.MustParseAddr("10.32.5.8") || b != netip.MustParseAddr("fd00:5::9") {
		t.Errorf("Last = %s, %s", a, b)
	}
}

func TestLockExcludes(t *testing.T) {
	s := open(t, t.TempDir())
	tx := lock(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("second Lock: %v, want it to wait", err)
	}
	unlock(t, tx)
	unlock(t, lock(t, s))
}

func TestListShowsTheGoodBesideTheDamaged(t *testing.T) {
	s := open(t, t.TempDir())
	tx := lock(t, s)
	defer unlock(t, tx)
	put(t, tx, attachment("c1", "10.32.5.2"))
	put(t, tx, attachment("c2", "10.32.5.3"))
	put(t, tx, attachment("c3", "10.32.5.4"))
	for name, content := range map[string]string{"c2.": "{", "c3.": `{"version":99}`} {
		files, err := filepath.Glob(filepath.Join(s.AttachmentsDir(), name+"*"))
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := os.WriteFile(files[0], []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.List()
	if len(all) != 1 || all[0].ContainerID != "c1" {
		t.Errorf("List = %v, want c1", all)
	}
	if err == nil || !strings.Contains(err.Error(), "c2.") || !strings.Contains(err.Error(), "format version 99") {
		t.Errorf("List's error = %v, want both damaged files", err)
	}
	if err := tx.Sweep(); err == nil {
		t.Error("Sweep freed addresses although it can't know whose they are")
	}
	// Removing a damaged one frees its address all the same.
	if err := tx.Remove(store.ID{ContainerID: "c2", IfName: "eth0"}); err != nil {
		t.Fatal(err)
	}
	reserve(t, tx, attachment("c4", "10.32.5.3"))
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"", "relative", file} {
		if _, err := store.Open(dir); err == nil {
			t.Errorf("Open(%q) succeeded", dir)
		}
	}
}

func TestManyAddressesStayFast(t *testing.T) {
	s := open(t, t.TempDir())
	tx := lock(t, s)
	defer unlock(t, tx)
	address := netip.MustParseAddr("10.32.0.1")
	for i := range 500 {
		put(t, tx, attachment(fmt.Sprint("c", i), address.String()))
		address = address.Next()
	}
	all, err := s.List()
	if err != nil || len(all) != 500 {
		t.Fatalf("List: %d, %v", len(all), err)
	}
	if !slices.IsSortedFunc(all, func(a, b store.Attachment) int { return strings.Compare(a.ContainerID, b.ContainerID) }) {
		t.Error("List isn't sorted")
	}
}

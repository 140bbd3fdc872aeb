package store_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/cni/store"
)

// churnEnv makes the test binary a process that attaches and detaches in this directory until it is killed.
const churnEnv = "WEAVEGUARD_TEST_CHURN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(churnEnv); dir != "" {
		fmt.Fprintln(os.Stderr, churn(dir, -1))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

var churnSubnet = netip.MustParsePrefix("10.32.5.0/28")

// churn attaches and detaches at random, rounds times or for ever. It returns what went wrong.
func churn(dir string, rounds int) error {
	s, err := store.Open(dir)
	if err != nil {
		return err
	}
	for i := 0; i != rounds; i++ {
		id := store.ID{ContainerID: fmt.Sprint("c", rand.IntN(20)), IfName: "eth0"}
		if err := churnOnce(s, id); err != nil {
			return err
		}
	}
	return nil
}

func churnOnce(s *store.Store, id store.ID) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if rand.IntN(2) == 0 {
		err := s.RemoveTogether(ctx, id, func(all []store.Attachment) []error { return make([]error, len(all)) })
		if !errors.Is(err, store.ErrAlone) {
			return err
		}
	}
	tx, err := s.Lock(ctx)
	if err != nil {
		return err
	}
	defer tx.Unlock()
	if _, err := tx.Get(id); err == nil {
		return tx.Remove(id)
	}
	address := churnSubnet.Addr()
	for address = address.Next(); churnSubnet.Contains(address); address = address.Next() {
		ok, err := tx.Reserve(id, address)
		if err != nil {
			return err
		}
		if ok {
			return tx.Put(store.Attachment{ID: id, Addresses: []netip.Addr{address}})
		}
	}
	return nil // exhausted: another round removes one
}

// checkStore holds what must be true whenever nobody has the lock.
func checkStore(t *testing.T, s *store.Store) []store.Attachment {
	t.Helper()
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	owner := make(map[netip.Addr]store.ID)
	for _, a := range all {
		for _, address := range a.Addresses {
			if first, ok := owner[address]; ok {
				t.Fatalf("%s is of %s and of %s", address, first, a.ID)
			}
			owner[address] = a.ID
		}
	}
	if n, err := s.InUse(churnSubnet); err != nil || n < len(owner) {
		t.Fatalf("%d addresses are taken, %v, and attachments have %d", n, err, len(owner))
	}
	return all
}

// Whenever a process is killed: nothing is damaged, no address is doubled, and none is lost.
func TestKilledAtAnyPoint(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	for range 60 {
		child := exec.Command(self)
		child.Env = append(os.Environ(), churnEnv+"="+dir)
		var stderr strings.Builder
		child.Stderr = &stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		delay := time.Duration(5+rand.IntN(10)) * time.Millisecond
		time.Sleep(delay + time.Duration(rand.IntN(1000))*time.Microsecond) // when to kill, not a wait for anything
		if err := child.Process.Kill(); err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		_ = child.Wait()
		if stderr.Len() > 0 {
			t.Fatal(stderr.String())
		}
		checkStore(t, s)
	}
	if err := churn(dir, 200); err != nil {
		t.Fatalf("the store is unusable after kills: %v", err)
	}
	tx := lock(t, s)
	defer unlock(t, tx)
	for _, a := range checkStore(t, s) {
		if err := tx.Remove(a.ID); err != nil {
			t.Fatal(err)
		}
	}
	for a := churnSubnet.Addr().Next(); churnSubnet.Contains(a); a = a.Next() {
		if ok, err := tx.Reserve(store.ID{ContainerID: "new", IfName: "eth0"}, a); err != nil || !ok {
			t.Errorf("%s is lost: %v, %v", a, ok, err)
		}
	}
}

// Each state that a killed process can leave, made by hand.
func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	tx := lock(t, s)
	put(t, tx, attachment("alive", "10.32.5.2"))
	reserve(t, tx, attachment("half", "10.32.5.3")) // killed before Put, or in Remove after the file
	reserve(t, tx, attachment("again", "10.32.5.4"))
	unlock(t, tx)
	temp := filepath.Join(s.AttachmentsDir(), "half.eth0.000000000000.json.tmp")
	if err := os.WriteFile(temp, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}

	tx = lock(t, s)
	reserve(t, tx, attachment("new", "10.32.5.3"))
	reserve(t, tx, attachment("again", "10.32.5.4"))
	put(t, tx, attachment("again", "10.32.5.5")) // so 10.32.5.4 leads to an attachment that doesn't have it
	if err := tx.Sweep(); err != nil {
		t.Fatal(err)
	}
	unlock(t, tx)
	links, err := os.ReadDir(filepath.Join(dir, "addresses"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Name())
	}
	if got := strings.Join(names, " "); got != "10.32.5.2 10.32.5.5" {
		t.Errorf("after Sweep the taken addresses are %s", got)
	}
	if _, err := os.Stat(temp); err == nil {
		t.Error("Sweep left the temporary file")
	}
}

// DEL follows an ADD that was killed while it wrote: nothing is left of it.
func TestRemoveTakesWhatIsHalfWritten(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	a := attachment("half", "10.32.5.3")
	tx := lock(t, s)
	defer func() { unlock(t, tx) }()
	put(t, tx, a)
	whole, err := filepath.Glob(filepath.Join(s.AttachmentsDir(), "*"))
	if err != nil || len(whole) != 1 {
		t.Fatal(whole, err)
	}
	if err := os.Rename(whole[0], whole[0]+".tmp"); err != nil {
		t.Fatal(err)
	}
	if err := tx.Remove(a.ID); err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{s.AttachmentsDir(), filepath.Join(dir, "addresses")} {
		if left, err := os.ReadDir(where); err != nil || len(left) > 0 {
			t.Errorf("%s has %v: %v", where, left, err)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { // a reader without the lock never sees a damaged or doubled one
		for {
			select {
			case <-stop:
				return
			default:
				if _, err := s.List(); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			if err := churn(dir, 100); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	close(stop)
	wg.Wait()
	checkStore(t, s)
}

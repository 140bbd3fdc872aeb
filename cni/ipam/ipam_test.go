package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/cni/ipam"
	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/contract"
)

// node is a store with its lock held.
type node struct {
	*testing.T
	dir string
	s   *store.Store
	tx  *store.Tx
	n   int
}

func newNode(t *testing.T) *node {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	tx, err := s.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tx.Unlock(); err != nil {
			t.Error(err)
		}
	})
	return &node{T: t, dir: dir, s: s, tx: tx}
}

func pool(subnet, gateway string) ipam.Pool {
	return ipam.Pool{Subnet: netip.MustParsePrefix(subnet), Gateway: netip.MustParseAddr(gateway)}
}

// attach allocates for a new container and stores it.
func (n *node) attach(pools ...ipam.Pool) ([]netip.Addr, error) {
	n.Helper()
	n.n++
	id := store.ID{ContainerID: fmt.Sprint("c", n.n), IfName: "eth0"}
	addresses, err := ipam.Allocate(n.s, n.tx, id, pools, make([]netip.Addr, len(pools)))
	if err != nil {
		return nil, err
	}
	if err := n.tx.Put(store.Attachment{ID: id, Addresses: addresses}); err != nil {
		n.Fatal(err)
	}
	return addresses, nil
}

func (n *node) detach(i int) {
	n.Helper()
	if err := n.tx.Remove(store.ID{ContainerID: fmt.Sprint("c", i), IfName: "eth0"}); err != nil {
		n.Fatal(err)
	}
}

func TestGivesEveryAddressOnceAndNoOther(t *testing.T) {
	for _, tt := range []struct {
		pool ipam.Pool
		want string
	}{
		{pool("10.32.5.0/29", "10.32.5.1"), "10.32.5.2 10.32.5.3 10.32.5.4 10.32.5.5 10.32.5.6"},
		{pool("10.32.5.0/29", "10.32.5.4"), "10.32.5.1 10.32.5.2 10.32.5.3 10.32.5.5 10.32.5.6"},
		{pool("10.32.5.8/30", "10.32.5.9"), "10.32.5.10"},
		{pool("fd00:5::/126", "fd00:5::1"), "fd00:5::2 fd00:5::3"},
	} {
		n := newNode(t)
		var got []string
		for {
			addresses, err := n.attach(tt.pool)
			if err != nil {
				var exhausted *ipam.ExhaustedError
				if !errors.As(err, &exhausted) || exhausted.InUse != len(got) || exhausted.Subnet != tt.pool.Subnet {
					t.Errorf("when all are given: %v; want ExhaustedError with %d in use", err, len(got))
				}
				break
			}
			got = append(got, addresses[0].String())
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%v gave %s, want %s", tt.pool, s, tt.want)
		}
		if n := contract.PodAddresses(tt.pool.Subnet); n != uint64(len(got)) {
			t.Errorf("the status says that %s has %d addresses for pods, and it gave %d", tt.pool.Subnet, n, len(got))
		}
		if used, err := store.InUseIn(n.dir, []netip.Prefix{tt.pool.Subnet, netip.MustParsePrefix("192.0.2.0/24")}); err != nil ||
			!slices.Equal(used, []int{len(got), 0}) {
			t.Errorf("%v of its addresses are in use, %v; want %d", used, err, len(got))
		}
	}
}

// An address that was just freed rests until the range has been run through.
func TestRoundRobin(t *testing.T) {
	n := newNode(t)
	p := pool("10.32.5.0/29", "10.32.5.1")
	var got []string
	for i := range 7 {
		addresses, err := n.attach(p)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, addresses[0].String())
		n.detach(i + 1)
	}
	want := "10.32.5.2 10.32.5.3 10.32.5.4 10.32.5.5 10.32.5.6 10.32.5.2 10.32.5.3"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}

func TestDualStackIsAllOrNothing(t *testing.T) {
	n := newNode(t)
	v4, v6 := pool("10.32.5.0/24", "10.32.5.1"), pool("fd00:5::/126", "fd00:5::1")
	for _, want := range []string{"[10.32.5.2 fd00:5::2]", "[10.32.5.3 fd00:5::3]"} {
		got, err := n.attach(v4, v6)
		if err != nil || fmt.Sprint(got) != want {
			t.Fatalf("got %v, %v; want %s", got, err, want)
		}
	}
	_, err := n.attach(v4, v6)
	if err == nil || !strings.Contains(err.Error(), "fd00:5::/126: 2 are in use") {
		t.Errorf("with no IPv6 address left: %v", err)
	}
	links, err := os.ReadDir(filepath.Join(n.dir, "addresses"))
	if len(links) != 4 || err != nil {
		t.Errorf("the IPv4 address wasn't undone: %v, %v", links, err)
	}
}

func TestSubnetsThatCannotServe(t *testing.T) {
	for _, p := range []ipam.Pool{
		{}, pool("10.32.5.0/31", "10.32.5.1"), pool("10.32.5.1/32", "10.32.5.1"), pool("10.32.5.7/24", "10.32.5.1"),
		pool("fd00:5::/127", "fd00:5::1"),
	} {
		if err := p.Validate(); err == nil {
			t.Errorf("Validate accepted %v", p)
		}
		if _, err := newNode(t).attach(p); err == nil {
			t.Errorf("Allocate accepted %v", p)
		}
	}
}

// Package ipam owns the choice of a pod's addresses on its node: one of each subnet, round robin, by host-local's
// allocator over the CNI store. It never touches the network, and never stores an attachment: what it reserves
// lasts only if the caller does.
package ipam

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend"
	"github.com/containernetworking/plugins/plugins/ipam/host-local/backend/allocator"

	"github.com/weaveguard/weaveguard/cni/store"
)

// Pool is a subnet that pods get addresses of. Its network address, the broadcast address (IPv4) and the gateway
// are never given.
type Pool struct {
	Subnet  netip.Prefix // masked; at least 4 addresses
	Gateway netip.Addr   // the bridge's address in it
}

// Validate says whether addresses can be allocated from the pool.
func (p Pool) Validate() error {
	_, err := p.ranges()
	return err
}

func (p Pool) ranges() (*allocator.RangeSet, error) {
	if !p.Subnet.IsValid() {
		return nil, fmt.Errorf("the subnet is missing")
	}
	if p.Subnet != p.Subnet.Masked() {
		return nil, fmt.Errorf("the subnet %s has bits beyond its length: write %s", p.Subnet, p.Subnet.Masked())
	}
	if p.Subnet.Bits() > p.Subnet.Addr().BitLen()-2 {
		return nil, fmt.Errorf("the subnet %s is too small for a gateway and pods: it needs at least 4 addresses", p.Subnet)
	}
	set := &allocator.RangeSet{{
		Subnet:  types.IPNet(net.IPNet{IP: p.Subnet.Addr().AsSlice(), Mask: net.CIDRMask(p.Subnet.Bits(), p.Subnet.Addr().BitLen())}),
		Gateway: p.Gateway.AsSlice(),
	}}
	if err := set.Canonicalize(); err != nil {
		return nil, fmt.Errorf("the subnet %s: %w", p.Subnet, err)
	}
	return set, nil
}

// ExhaustedError says that all addresses of a subnet are taken.
type ExhaustedError struct {
	Subnet netip.Prefix
	InUse  int
}

func (e *ExhaustedError) Error() string {
	return fmt.Sprintf("no address is free in %s: %d are in use", e.Subnet, e.InUse)
}

// TakenError says that an address that was asked for has an owner.
type TakenError struct{ Address netip.Addr }

func (e *TakenError) Error() string { return fmt.Sprintf("%s is in use", e.Address) }

// Gives says why the pool never gives an address, if so.
func (p Pool) Gives(address netip.Addr) error {
	ranges, err := p.ranges()
	if err != nil {
		return err
	}
	switch {
	case !ranges.Contains(address.AsSlice()):
		return fmt.Errorf("%s can't be a pod's in %s", address, p.Subnet)
	case address == p.Gateway:
		return fmt.Errorf("%s is the gateway of %s", address, p.Subnet)
	}
	return nil
}

// Allocate reserves one address of each pool for an attachment, and returns them in the order of the pools. It
// reserves all or none. Wanted has, by pool, the address that is asked for, which the pool has to give, or the zero Addr
// for any. An *ExhaustedError says that a pool has none left, a *TakenError that one has an owner. The caller holds the
// store's lock until it has stored the attachment.
func Allocate(s *store.Store, tx *store.Tx, id store.ID, pools []Pool, wanted []netip.Addr) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for i, pool := range pools {
		address, err := allocate(s, tx, id, pool, i, wanted[i])
		if err != nil {
			if undo := tx.Release(id, addresses...); undo != nil {
				return nil, fmt.Errorf("%w; and undoing it: %w", err, undo)
			}
			return nil, err
		}
		addresses = append(addresses, address)
	}
	return addresses, nil
}

func allocate(s *store.Store, tx *store.Tx, id store.ID, pool Pool, rangeID int, wanted netip.Addr) (netip.Addr, error) {
	if wanted.IsValid() {
		if free, err := tx.Reserve(id, wanted); err != nil || free {
			return wanted, err
		}
		return netip.Addr{}, &TakenError{wanted}
	}
	ranges, err := pool.ranges()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("allocating an address: %w", err)
	}
	b := &lockedStore{tx: tx, id: id, subnet: pool.Subnet}
	config, err := allocator.NewIPAllocator(ranges, b, rangeID).Get(id.ContainerID, id.IfName, nil)
	switch {
	case b.err != nil:
		return netip.Addr{}, fmt.Errorf("allocating an address of %s: %w", pool.Subnet, b.err)
	case err != nil: // it has no other reason to fail than that it tried all
		n, countErr := s.InUse(pool.Subnet)
		if countErr != nil {
			return netip.Addr{}, fmt.Errorf("no address is free in %s: %w", pool.Subnet, countErr)
		}
		return netip.Addr{}, &ExhaustedError{Subnet: pool.Subnet, InUse: n}
	}
	address, ok := netip.AddrFromSlice(config.Address.IP)
	if !ok || !slices.Contains(b.reserved, address.Unmap()) {
		return netip.Addr{}, fmt.Errorf("allocating an address of %s: the allocator chose %s without reserving it",
			pool.Subnet, config.Address.IP)
	}
	return address.Unmap(), nil
}

// lockedStore shows a locked store to host-local's allocator, as one subnet's.
type lockedStore struct {
	tx       *store.Tx
	id       store.ID
	subnet   netip.Prefix
	reserved []netip.Addr
	err      error
}

var _ backend.Store = (*lockedStore)(nil)

// Lock, Unlock and Close do nothing: the lock is held until the attachment is stored.
func (*lockedStore) Lock() error   { return nil }
func (*lockedStore) Unlock() error { return nil }
func (*lockedStore) Close() error  { return nil }

// Reserve reserves an address that the allocator proposes.
func (b *lockedStore) Reserve(_, _ string, ip net.IP, _ string) (bool, error) {
	address, ok := netip.AddrFromSlice(ip)
	if !ok {
		b.err = fmt.Errorf("the allocator proposes %v", ip)
		return false, b.err
	}
	address = address.Unmap()
	ok, b.err = b.tx.Reserve(b.id, address)
	if b.err != nil || !ok {
		return false, b.err
	}
	b.reserved = append(b.reserved, address)
	// Where the next search begins is worth no failure: it would only begin at another place.
	_ = b.tx.SetLast(b.subnet, address)
	return true, nil
}

// LastReservedIP returns where the last search ended.
func (b *lockedStore) LastReservedIP(string) (net.IP, error) {
	last := b.tx.Last(b.subnet)
	if !last.IsValid() {
		return nil, nil
	}
	return last.AsSlice(), nil
}

// ReleaseByID frees what was reserved here.
func (b *lockedStore) ReleaseByID(string, string) error { return b.tx.Release(b.id, b.reserved...) }

// GetByID returns nothing: that an attachment exists already is found before, by the store.
func (*lockedStore) GetByID(string, string) []net.IP { return nil }

// Package ipam owns the choice of a pod's addresses on its node: one of each subnet, round robin over the CNI store. It never touches
// the network, and never stores an attachment: what it reserves lasts only if the caller does.
package ipam

import (
	"fmt"
	"iter"
	"net/netip"

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
	if !p.Subnet.IsValid() {
		return fmt.Errorf("the subnet is missing")
	}
	if p.Subnet != p.Subnet.Masked() {
		return fmt.Errorf("the subnet %s has bits beyond its length: write %s", p.Subnet, p.Subnet.Masked())
	}
	if p.Subnet.Bits() > p.Subnet.Addr().BitLen()-2 {
		return fmt.Errorf("the subnet %s is too small for a gateway and pods: it needs at least 4 addresses", p.Subnet)
	}
	return nil
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
	switch {
	case !p.Subnet.Contains(address), address == p.Subnet.Addr(), address.Is4() && !p.Subnet.Contains(address.Next()):
		return fmt.Errorf("%s can't be a pod's in %s", address, p.Subnet)
	case address == p.Gateway:
		return fmt.Errorf("%s is the gateway of %s", address, p.Subnet)
	}
	return nil
}

// after are the addresses of the subnet once round, from the one behind last. Without a last one they begin with the first.
func (p Pool) after(last netip.Addr) iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		if !last.IsValid() {
			last = p.Subnet.Addr()
		}
		for address := last; ; {
			if address = address.Next(); !p.Subnet.Contains(address) {
				address = p.Subnet.Addr()
			}
			if !yield(address) || address == last {
				return
			}
		}
	}
}

// Allocate reserves one address of each pool for an attachment, and returns them in the order of the pools. It
// reserves all or none. Wanted has, by pool, the address that is asked for, which the pool has to give, or the zero Addr
// for any. An *ExhaustedError says that a pool has none left, a *TakenError that one has an owner. The caller holds the
// store's lock until it has stored the attachment.
func Allocate(s *store.Store, tx *store.Tx, id store.ID, pools []Pool, wanted []netip.Addr) ([]netip.Addr, error) {
	var addresses []netip.Addr
	for i, pool := range pools {
		address, err := allocate(s, tx, id, pool, wanted[i])
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

func allocate(s *store.Store, tx *store.Tx, id store.ID, pool Pool, wanted netip.Addr) (netip.Addr, error) {
	if wanted.IsValid() {
		if free, err := tx.Reserve(id, wanted); err != nil || free {
			return wanted, err
		}
		return netip.Addr{}, &TakenError{wanted}
	}
	if err := pool.Validate(); err != nil {
		return netip.Addr{}, fmt.Errorf("allocating an address: %w", err)
	}
	for address := range pool.after(tx.Last(pool.Subnet)) {
		if pool.Gives(address) != nil {
			continue
		}
		free, err := tx.Reserve(id, address)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("allocating an address of %s: %w", pool.Subnet, err)
		}
		if free {
			// Where the next search begins is worth no failure: it would only begin at another place.
			_ = tx.SetLast(pool.Subnet, address)
			return address, nil
		}
	}
	n, err := s.InUse(pool.Subnet)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("no address is free in %s: %w", pool.Subnet, err)
	}
	return netip.Addr{}, &ExhaustedError{Subnet: pool.Subnet, InUse: n}
}

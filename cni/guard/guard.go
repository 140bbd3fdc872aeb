package guard

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// ErrMissing says that the table isn't there, or not whole: the agent hasn't made it yet.
var ErrMissing = errors.New("the table bridge weaveguard of nftables is missing")

// Add lets the pod behind a port send from its own addresses, in one transaction. It is safe to repeat.
func Add(p Port) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("connecting to nftables: %w", err)
	}
	elements := p.Elements()
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		if err := conn.SetAddElements(set(name), elements[name]); err != nil {
			return fmt.Errorf("encoding the elements of %s: %w", p.Name, err)
		}
	}
	if err := conn.Flush(); missing(err) {
		return ErrMissing
	} else if err != nil {
		return fmt.Errorf("letting %s send from its own addresses: %w", p.Name, err)
	}
	return nil
}

// Remover removes ports by one socket.
//
// When a socket of nftables is closed, by whatever process, the kernel makes who closes it wait until all that was removed by
// anybody is freed (nft_rcv_nl_event in net/netfilter/nf_tables_api.c): an RCU grace period, some 10 to 30 ms. So it
// isn't closed, and whoever ends soon has another process hold it until it has ended.
type Remover struct {
	conn       *nftables.Conn
	descriptor int
}

// NewRemover opens the socket, for as long as the process lives.
func NewRemover() (*Remover, error) {
	r := &Remover{}
	var err error
	r.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		raw, err := c.SyscallConn()
		if err != nil {
			return err
		}
		return raw.Control(func(fd uintptr) { r.descriptor = int(fd) })
	}))
	if err != nil {
		return nil, fmt.Errorf("connecting to nftables: %w", err)
	}
	return r, nil
}

// Descriptor is the socket's.
func (r *Remover) Descriptor() int { return r.descriptor }

// Remove is the reverse of Add for some ports, in one transaction if it can be. What is gone already is no error.
func (r *Remover) Remove(ports ...Port) error {
	elements := map[string][]nftables.SetElement{}
	for _, p := range ports {
		for name, more := range p.Elements() {
			elements[name] = append(elements[name], more...)
		}
	}
	if r.remove(elements) == nil {
		return nil
	}
	// Something isn't there, or can't be removed, and so nothing was.
	if err := whole(r.conn); err != nil {
		if errors.Is(err, ErrMissing) {
			return nil
		}
		return err
	}
	var errs []error
	for _, p := range ports {
		if err := r.removeEach(p.Elements()); err != nil {
			errs = append(errs, fmt.Errorf("taking %s from nftables' sets: %w", p.Name, err))
		}
	}
	return errors.Join(errs...)
}

// removeEach removes those of the elements that are there.
func (r *Remover) removeEach(elements map[string][]nftables.SetElement) error {
	for name, list := range elements {
		for _, element := range list {
			one := map[string][]nftables.SetElement{name: {element}}
			if err := r.remove(one); err != nil && !missing(err) {
				return err
			}
		}
	}
	return nil
}

func (r *Remover) remove(elements map[string][]nftables.SetElement) error {
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		if err := r.conn.SetDeleteElements(set(name), elements[name]); err != nil {
			return err
		}
	}
	return r.conn.Flush()
}

// Has reports whether all elements of a port are there. Errors: ErrMissing, else the kernel's.
func Has(p Port) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("connecting to nftables: %w", err)
	}
	if err := whole(conn); err != nil {
		return false, err
	}
	for name, want := range p.Elements() {
		have, err := conn.GetSetElements(set(name))
		if err != nil {
			return false, fmt.Errorf("listing nftables' set %s: %w", name, err)
		}
		for _, element := range want {
			if !slices.ContainsFunc(have, func(h nftables.SetElement) bool { return bytes.Equal(h.Key, element.Key) }) {
				return false, nil
			}
		}
	}
	return true, nil
}

// missing reports whether the kernel says that something isn't there, be it nftables itself.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) }

// Ready returns ErrMissing unless Add would find the table.
func Ready() error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("connecting to nftables: %w", err)
	}
	return whole(conn)
}

// whole returns ErrMissing unless the table and its sets are there.
func whole(conn *nftables.Conn) error {
	tables, err := conn.ListTablesOfFamily(Table().Family)
	if err != nil {
		return fmt.Errorf("listing nftables' tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == Table().Name }) {
		return ErrMissing
	}
	sets, err := conn.GetSets(Table())
	if err != nil {
		return fmt.Errorf("listing nftables' sets: %w", err)
	}
	for _, name := range Names() {
		if !slices.ContainsFunc(sets, func(s *nftables.Set) bool { return s.Name == name }) {
			return ErrMissing
		}
	}
	return nil
}

func set(name string) *nftables.Set {
	return &nftables.Set{Table: Table(), Name: name, KeyType: KeyType(name)}
}

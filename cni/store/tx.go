package store

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Tx is the right to change a store: it exists only while its process holds the lock. It isn't for several
// goroutines. What it does lasts from call to call; there is nothing to commit or roll back.
type Tx struct {
	s    *Store
	lock *os.File
}

// Unlock gives the lock back. The Tx must not be used after it.
func (tx *Tx) Unlock() error {
	if err := unlock(tx.lock); err != nil {
		return fmt.Errorf("unlocking the store: %w", err)
	}
	return nil
}

// Get is Store.Get.
func (tx *Tx) Get(id ID) (Attachment, error) { return tx.s.Get(id) }

// List is Store.List.
func (tx *Tx) List() ([]Attachment, error) { return tx.s.List() }

// Reserve takes an address for an attachment that isn't stored yet, and reports whether it was free. The
// reservation lasts until Unlock, and beyond it only if Put has stored the attachment with this address.
func (tx *Tx) Reserve(id ID, address netip.Addr) (bool, error) {
	path := tx.s.addressPath(address)
	target := filepath.Join("..", attachmentsDir, id.fileName())
	for range 2 {
		err := os.Symlink(target, path)
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return false, fmt.Errorf("reserving %s: %w", address, err)
		}
		if tx.s.taken(address) {
			return false, nil
		}
		if old, err := os.Readlink(path); err == nil && old == target {
			return true, nil // left by a killed process that attached the same
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("taking over %s, which a killed process left: %w", address, err)
		}
	}
	return false, fmt.Errorf("reserving %s: %s changes without the lock", address, path)
}

// Put stores an attachment whose addresses have been reserved for it. It returns ErrExists if it is stored already.
func (tx *Tx) Put(a Attachment) error {
	path := tx.s.attachmentPath(a.ID)
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", a.ID, ErrExists)
	}
	for _, address := range a.Addresses {
		target, err := os.Readlink(tx.s.addressPath(address))
		if err != nil || filepath.Base(target) != a.fileName() {
			return fmt.Errorf("storing %s: %s isn't reserved for it", a.ID, address)
		}
	}
	b, err := encode(a)
	if err != nil {
		return err
	}
	if err := writeFile(path, b, 0o600); err != nil {
		return fmt.Errorf("storing %s: %w", a.ID, err)
	}
	return nil
}

// Remove forgets an attachment and frees its addresses. It is right for one that isn't stored, whose file is
// damaged, or that a killed process left half made or half removed.
func (tx *Tx) Remove(id ID) error {
	a, unknown := tx.s.Get(id)
	if err := tx.forget(id, a.Addresses); err != nil {
		return err
	}
	if unknown != nil {
		return tx.unlink(func(_ netip.Addr, target string) bool { return target == id.fileName() })
	}
	return nil
}

// forget removes an attachment's files, and then frees its addresses.
func (tx *Tx) forget(id ID, addresses []netip.Addr) error {
	path := tx.s.attachmentPath(id)
	for _, file := range []string{path, path + tempSuffix} {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing %s: %w", id, err)
		}
	}
	return tx.Release(id, addresses...)
}

// Release frees addresses that were reserved for an attachment and shall not be stored. Those of others stay.
func (tx *Tx) Release(id ID, addresses ...netip.Addr) error {
	for _, address := range addresses {
		path := tx.s.addressPath(address)
		target, err := os.Readlink(path)
		if err != nil || filepath.Base(target) != id.fileName() {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("releasing %s: %w", address, err)
		}
	}
	return nil
}

// unlink removes the links of all addresses that match; target is the name of the attachment's file.
func (tx *Tx) unlink(match func(address netip.Addr, target string) bool) error {
	dir := filepath.Join(tx.s.dir, addressesDir)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("listing addresses: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		address, err := netip.ParseAddr(e.Name())
		if err != nil {
			continue
		}
		target, err := os.Readlink(path)
		if err != nil || !match(address, filepath.Base(target)) {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("freeing %s: %w", address, err)
		}
	}
	return nil
}

// Last returns the address of a subnet that was reserved last as SetLast remembers it, or the zero Addr.
func (tx *Tx) Last(subnet netip.Prefix) netip.Addr {
	target, err := os.Readlink(tx.s.lastPath(subnet))
	if err != nil {
		return netip.Addr{}
	}
	address, err := netip.ParseAddr(target)
	if err != nil || !subnet.Contains(address) {
		return netip.Addr{}
	}
	return address
}

// SetLast remembers the address of a subnet that was reserved last, so that the next search begins behind it.
func (tx *Tx) SetLast(subnet netip.Prefix, address netip.Addr) error {
	path := tx.s.lastPath(subnet)
	temp := path + tempSuffix
	err := os.Symlink(address.String(), temp)
	if errors.Is(err, fs.ErrExist) { // a killed process left it
		err = errors.Join(os.Remove(temp), os.Symlink(address.String(), temp))
	}
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return fmt.Errorf("remembering %s as the last address: %w", address, err)
	}
	return nil
}

func (s *Store) lastPath(subnet netip.Prefix) string {
	return filepath.Join(s.dir, "last-"+strings.ReplaceAll(subnet.String(), "/", "-"))
}

// Sweep removes what killed processes left: links of addresses that no attachment has, marks of attachments that aren't
// stored any more, and temporary files.
func (tx *Tx) Sweep() error {
	owned := make(map[netip.Addr]string)
	all, err := tx.s.List()
	if err != nil {
		return fmt.Errorf("sweeping the store: %w", err) // whose addresses a damaged file holds isn't known
	}
	for _, a := range all {
		for _, address := range a.Addresses {
			owned[address] = a.fileName()
		}
	}
	if err := tx.unlink(func(a netip.Addr, target string) bool { return owned[a] != target }); err != nil {
		return fmt.Errorf("sweeping the store: %w", err)
	}
	if err := tx.s.sweepMarks(); err != nil {
		return fmt.Errorf("sweeping the store: %w", err)
	}
	for _, dir := range []string{tx.s.dir, tx.s.AttachmentsDir()} {
		temps, err := filepath.Glob(filepath.Join(dir, "*"+tempSuffix))
		if err != nil {
			return fmt.Errorf("sweeping the store: %w", err)
		}
		for _, path := range temps {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("sweeping the store: %w", err)
			}
		}
	}
	return nil
}

// writeFile makes a file's content appear at once: written beside it and renamed. Writers must exclude each other.
func writeFile(path string, content []byte, mode os.FileMode) error {
	temp := path + tempSuffix
	if err := os.WriteFile(temp, content, mode); err != nil {
		return err
	}
	return os.Rename(temp, path)
}

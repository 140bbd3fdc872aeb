package keys

import (
	"bytes"
	"errors"
	"slices"
	"time"
)

// ErrForeignKeyring is what Step returns for a keyring that has no key of the one in use.
var ErrForeignKeyring = errors.New("none of its keys is one that is in use")

// Followed is the keyring that a running agent gossips with, as it follows one that an operator changes. Agents see a
// change at different times, some seconds apart. So a new key encrypts only after a hold, in which all others have got
// to know it; and a key decrypts for a hold after it was taken out, as others may still encrypt with it. It isn't for
// several goroutines.
type Followed struct {
	keys []followedKey // the one that encrypts first
}

type followedKey struct {
	key    []byte
	added  time.Time // when it was first seen; zero: at the start
	wanted time.Time // when it was in the followed keyring last, or encrypted
}

// NewFollowed begins with a keyring all of whose keys may be used at once.
func NewFollowed(ring Keyring) *Followed {
	f := &Followed{}
	for _, key := range ring {
		if f.find(key) < 0 {
			f.keys = append(f.keys, followedKey{key: bytes.Clone(key)})
		}
	}
	return f
}

// ResumeFollowed begins where an earlier run with the keyring last has ended: with the key that encrypted then, if it is
// still wanted. The others may be new, also to other agents, and encrypt after a hold.
func ResumeFollowed(last, wanted Keyring, now time.Time) *Followed {
	if len(last) == 0 || !wanted.Has(last[0]) {
		return NewFollowed(wanted)
	}
	f := NewFollowed(slices.Concat(Keyring{last[0]}, wanted))
	for i := range f.keys {
		f.keys[i].wanted = now
		if i > 0 {
			f.keys[i].added = now
		}
	}
	return f
}

// Ring is the keyring to gossip with: what Step returned last, or the first one.
func (f *Followed) Ring() Keyring {
	ring := make(Keyring, len(f.keys))
	for i, k := range f.keys {
		ring[i] = k.key
	}
	return ring
}

// Step takes in what the followed keyring is now, and returns the one to gossip with. Call it again and again, also
// with the same keyring: time makes a difference. For a keyring with none of the keys in use, which would cut this
// node off, it returns ErrForeignKeyring, and nothing changes.
func (f *Followed) Step(now time.Time, wanted Keyring, hold time.Duration) (Keyring, error) {
	if len(wanted) == 0 || !wanted.Shares(f.Ring()) {
		return nil, ErrForeignKeyring
	}
	for _, key := range wanted {
		i := f.find(key)
		if i < 0 {
			f.keys = append(f.keys, followedKey{key: bytes.Clone(key), added: now})
			i = len(f.keys) - 1
		}
		f.keys[i].wanted = now
	}
	f.keys[0].wanted = now // as long as it encrypts, whether or not it is in the followed one
	if i := f.find(wanted[0]); i > 0 && now.Sub(f.keys[i].added) >= hold {
		first := f.keys[i]
		f.keys = slices.Insert(slices.Delete(f.keys, i, i+1), 0, first)
	}
	f.keys = slices.DeleteFunc(f.keys, func(k followedKey) bool { return now.Sub(k.wanted) >= max(hold, 1) })
	return f.Ring(), nil
}

func (f *Followed) find(key []byte) int {
	return slices.IndexFunc(f.keys, func(k followedKey) bool { return bytes.Equal(k.key, key) })
}

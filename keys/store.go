package keys

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"
)

const (
	// FileName is the key file in the store's directory.
	FileName = "keys.json"

	lockName      = "lock"
	formatVersion = 1
	// maxGenerations is how many WireGuard keys a node holds at most: the one in use, and the next.
	maxGenerations = 2
)

// ErrInUse says that another process holds the store.
var ErrInUse = errors.New("another agent uses this directory")

// CorruptError says that a file of the store exists and can't be used. The file is left as it is.
type CorruptError struct {
	Path string
	Err  error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s can't be used: %v; restore it from a backup, or move it away: "+
		"the node then makes new keys and comes back under a new identity", e.Path, e.Err)
}

func (e *CorruptError) Unwrap() error { return e.Err }

// Store is the key store of one node: one directory (mode 0700), with the key file (mode 0600) in it. Every
// change is on disk, fsynced, before a method returns. One process at a time holds it. Safe for concurrent use.
type Store struct {
	dir  string
	lock *os.File

	mu          sync.Mutex
	identity    Identity
	generations []Generation
	rotation    Rotation // its Generations are those of generations
	sequence    sequence
}

// file is the shape of keys.json. Keys are standard base64.
type file struct {
	Version     int              `json:"version"`
	Identity    string           `json:"identity"` // Ed25519 seed, 32 bytes
	Generations []fileGeneration `json:"generations"`
	// What follows is absent in files of agents that didn't rotate, which pass over it.
	Announced bool      `json:"announced,omitempty"`
	Requested bool      `json:"rotationRequested,omitempty"`
	MadeAt    time.Time `json:"madeAt,omitzero"`
}

type fileGeneration struct {
	Number  uint32 `json:"number"`
	Private string `json:"privateKey"`
}

// Open opens the store in dir, and makes the directory, an identity and generation 0 where there are none. It
// returns ErrInUse when another process holds the store, a *CorruptError when what is there can't be used, and
// the system's error when nothing is there and the directory can't be written: a store that can only be read is enough, and
// refuses what changes it. Close it to let go of the lock.
func Open(dir string) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the key store: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	s := &Store{dir: dir, lock: lock}
	if err := s.open(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

func (s *Store) open() error {
	if err := tidy(s.dir); err != nil {
		return err
	}
	var err error
	Secretly(func() { err = s.load() })
	return err
}

func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockName)
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, unix.EROFS) {
		lock, err = os.Open(path)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, fs.ErrNotExist) { // it can't be made
		lock, err = os.Open(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the key store's lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrInUse
		}
		return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), lock.Close())
	}
	return lock, nil
}

// tidy closes the directory and the key file to others (a hostPath volume makes directories of mode 0755, and a
// backup may restore any), and removes what a crash in the middle of a write left behind.
func tidy(dir string) error {
	for path, mode := range map[string]fs.FileMode{dir: 0o700, filepath.Join(dir, FileName): 0o600} {
		info, err := os.Stat(path)
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			err = unlessReadOnly(os.Chmod(path, mode))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("closing the key store to others: %w", err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("looking for unfinished writes in the key store: %w", err)
	}
	for _, entry := range entries {
		if !isUnfinished(entry.Name()) {
			continue
		}
		if err := unlessReadOnly(os.Remove(filepath.Join(dir, entry.Name()))); err != nil {
			return fmt.Errorf("removing an unfinished write from the key store: %w", err)
		}
	}
	return nil
}

// unlessReadOnly passes over what can wait until the file system can be written.
func unlessReadOnly(err error) error {
	if errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// isUnfinished knows the names that renameio gives to files before they are whole: a dot, the name, a number.
func isUnfinished(name string) bool {
	for _, final := range []string{FileName, sequenceName} {
		if number, found := strings.CutPrefix(name, "."+final); found {
			_, err := strconv.ParseUint(number, 10, 64)
			return err == nil
		}
	}
	return false
}

func (s *Store) load() error {
	path := filepath.Join(s.dir, FileName)
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := s.create(); err != nil {
			return err
		}
	case err != nil:
		return fmt.Errorf("reading the key store: %w", err)
	default:
		err := s.decode(raw)
		clear(raw)
		if err != nil {
			return &CorruptError{Path: path, Err: err}
		}
	}
	s.sequence, err = openSequence(filepath.Join(s.dir, sequenceName))
	return err
}

func (s *Store) create() error {
	identity, err := newIdentity()
	if err != nil {
		return err
	}
	private, err := newPrivateKey()
	if err != nil {
		return err
	}
	s.identity = identity
	return s.save([]Generation{{Number: 0, Private: private}}, Rotation{Announced: true, MadeAt: time.Now()})
}

// save makes these generations and what goes with them durable, and only then takes them over.
func (s *Store) save(generations []Generation, r Rotation) error {
	r.MadeAt = r.MadeAt.UTC().Truncate(time.Second) // that is enough to tell by, and the same after it was read back
	var err error
	Secretly(func() { err = s.write(generations, r) })
	if err != nil {
		return err
	}
	s.take(generations, r)
	return nil
}

func (s *Store) write(generations []Generation, r Rotation) error {
	f := file{
		Version:   formatVersion,
		Identity:  base64.StdEncoding.EncodeToString(s.identity.reveal().Seed()),
		Announced: r.Announced, Requested: r.Requested, MadeAt: r.MadeAt,
	}
	for _, g := range generations {
		secret := g.Private.Bytes()
		f.Generations = append(f.Generations, fileGeneration{
			Number:  g.Number,
			Private: base64.StdEncoding.EncodeToString(secret[:]),
		})
	}
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the key store: %w", err)
	}
	raw = append(raw, '\n')
	err = writeDurably(filepath.Join(s.dir, FileName), raw)
	clear(raw)
	if err != nil {
		return fmt.Errorf("writing the key store: %w", err)
	}
	return nil
}

func (s *Store) take(generations []Generation, r Rotation) {
	r.Generations = nil
	for _, g := range generations {
		r.Generations = append(r.Generations, g.Number)
	}
	s.generations, s.rotation = generations, r
}

func (s *Store) decode(raw []byte) error {
	f, err := decodeFile(raw)
	if err != nil {
		return err
	}
	seed := make([]byte, len(Identity{}.Public()))
	defer clear(seed)
	if err := decodeKey("the identity", []byte(f.Identity), seed); err != nil {
		return err
	}
	if s.identity, err = identityFromSeed(seed); err != nil {
		return err
	}
	generations, err := decodeGenerations(f.Generations)
	if err != nil {
		return err
	}
	r := Rotation{Announced: f.Announced || len(generations) == 1, Requested: f.Requested, MadeAt: f.MadeAt}
	if r.MadeAt.IsZero() { // by an agent that didn't rotate: it wrote the file when it made the key
		if info, err := os.Stat(filepath.Join(s.dir, FileName)); err == nil {
			r.MadeAt = info.ModTime().UTC().Truncate(time.Second)
		}
	}
	s.take(generations, r)
	return nil
}

func decodeFile(raw []byte) (file, error) {
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		// The decoder's own message may quote the text, and the text is secret.
		return f, errors.New("it isn't the JSON of a key store (cut short, or not ours)")
	}
	if f.Version != formatVersion {
		return f, fmt.Errorf("it has format version %d, and this agent knows version %d only: "+
			"use the agent that wrote it, or a newer one", f.Version, formatVersion)
	}
	return f, nil
}

func decodeGenerations(stored []fileGeneration) ([]Generation, error) {
	if len(stored) == 0 || len(stored) > maxGenerations {
		return nil, fmt.Errorf("it holds %d WireGuard keys, want 1 to %d", len(stored), maxGenerations)
	}
	var generations []Generation
	for i, g := range stored {
		if i > 0 && uint64(g.Number) != uint64(stored[i-1].Number)+1 {
			return nil, fmt.Errorf("generation %d follows generation %d", g.Number, stored[i-1].Number)
		}
		var key wgtypes.Key
		if err := decodeKey(fmt.Sprintf("the key of generation %d", g.Number), []byte(g.Private), key[:]); err != nil {
			return nil, err
		}
		if key == (wgtypes.Key{}) {
			return nil, fmt.Errorf("the key of generation %d is all zeros", g.Number)
		}
		generations = append(generations, Generation{Number: g.Number, Private: privateKey(key)})
	}
	return generations, nil
}

// Identity returns the node's identity.
func (s *Store) Identity() Identity { return s.identity }

// Generations returns the node's WireGuard keys, oldest first: one, or two while it rotates.
func (s *Store) Generations() []Generation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.generations)
}

// Private returns the private key of a generation that the store holds.
func (s *Store) Private(number uint32) (PrivateKey, bool) {
	for _, g := range s.Generations() {
		if g.Number == number {
			return g.Private, true
		}
	}
	return PrivateKey{}, false
}

// Rotation returns where the rotation of the keys stands.
func (s *Store) Rotation() Rotation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rotation.clone()
}

// RequestRotation notes on disk that a rotation is wanted, and reports whether that was noted before. On an error
// nothing has changed.
func (s *Store) RequestRotation() (already bool, err error) {
	already = true
	_, err = s.Advance(func(r Rotation) Rotation {
		already, r.Requested = r.Requested, true
		return r
	})
	return already, err
}

// Advance makes durable what step makes of the rotation, and returns where that stands then: a generation that is new
// gets a key, one that is gone is erased from disk and memory. On an error nothing has changed. What is asked for
// meanwhile waits, so step must be quick.
func (s *Store) Advance(step func(Rotation) Rotation) (Rotation, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := step(s.rotation.clone())
	if err := s.rotation.validate(next); err != nil {
		return s.rotation.clone(), err
	}
	if s.rotation.sameOnDisk(next) {
		s.rotation.QuietSince = next.QuietSince
		return s.rotation.clone(), nil
	}
	var kept, gone []Generation
	for _, g := range s.generations {
		if slices.Contains(next.Generations, g.Number) {
			kept = append(kept, g)
		} else {
			gone = append(gone, g)
		}
	}
	if newest := next.newest(); newest != s.rotation.newest() {
		private, err := newPrivateKey()
		if err != nil {
			return s.rotation.clone(), err
		}
		kept = append(kept, Generation{Number: newest, Private: private})
	}
	if err := s.save(kept, next); err != nil {
		return s.rotation.clone(), err
	}
	for _, g := range gone {
		g.Private.erase()
	}
	return s.rotation.clone(), nil
}

// NextSequence returns a number above all that it returned before, in this process or an earlier one; as long as the disk
// can't be written, unless the clock went back between the two.
func (s *Store) NextSequence() (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sequence.next()
}

// RaiseSequence makes NextSequence return numbers above seen: a store that was restored from a backup goes on
// after the last record that others know of.
func (s *Store) RaiseSequence(seen uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sequence.raise(seen)
}

// Close lets go of the lock.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lock.Close()
}

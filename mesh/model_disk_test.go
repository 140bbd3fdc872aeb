package mesh

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/wgctrl/wgtypes"

	"github.com/weaveguard/weaveguard/keys"
)

// modelKeyring is a stock of real keys, which all worlds use again: making one takes longer than most of what a world
// does.
type modelKeyring struct {
	identities []keys.Identity
	privates   []keys.PrivateKey
	publics    map[wgtypes.Key]keys.PublicKey // of privates
}

const (
	maxModelNodes = 5
	modelKeys     = 64
)

func newModelKeyring(t *testing.T) *modelKeyring {
	t.Helper()
	ring := &modelKeyring{publics: map[wgtypes.Key]keys.PublicKey{}}
	dir := t.TempDir()
	for i := range modelKeys / 2 {
		store, err := keys.Open(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		_, err = store.Advance(func(r keys.Rotation) keys.Rotation {
			r.Generations = append(r.Generations, r.Generations[0]+1)
			return r
		})
		if err != nil {
			t.Fatal(err)
		}
		ring.identities = append(ring.identities, store.Identity())
		for _, g := range store.Generations() {
			ring.privates = append(ring.privates, g.Private)
			ring.publics[g.Private.Bytes()] = g.Private.Public()
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return ring
}

var errModel = errors.New("broken on purpose")

// modelDisk is the key store of a node, in memory: what is on disk, and what isn't.
type modelDisk struct {
	n           *modelNode
	generations []keys.Generation
	rotation    keys.Rotation
	writing     bool // a step is under way: what else is asked for waits
	sequence    uint64

	first  uint32           // the generation that the node began with
	wanted uint32           // the generation that all requests lead to
	made   []keys.PublicKey // from first on
}

func newModelDisk(n *modelNode) *modelDisk {
	d := &modelDisk{n: n, first: uint32(n.w.rng.IntN(4))}
	d.wanted = d.first
	d.add(d.first)
	d.rotation = keys.Rotation{Generations: []uint32{d.first}, Announced: true, MadeAt: n.w.epoch.UTC()}
	return d
}

// add makes the key of a generation.
func (d *modelDisk) add(number uint32) {
	w := d.n.w
	private := w.keyring.privates[w.keysUsed]
	w.keysUsed++
	public := w.keyring.publics[private.Bytes()]
	w.owners[public] = modelOwner{d.n, number}
	d.made = append(d.made, public)
	d.generations = append(slices.Clone(d.generations), keys.Generation{Number: number, Private: private})
}

// forget is what the end of the process does: only the disk stays.
func (d *modelDisk) forget() {
	d.rotation.QuietSince, d.writing = time.Time{}, false
	d.sequence += 1 << 16
}

func (d *modelDisk) Identity() keys.Identity         { return d.n.w.keyring.identities[d.n.number] }
func (d *modelDisk) Generations() []keys.Generation  { return d.generations }
func (d *modelDisk) RaiseSequence(seen uint64) error { d.sequence = max(d.sequence, seen); return nil }

func (d *modelDisk) Lost() []string             { return nil }
func (d *modelDisk) Restore() ([]string, error) { return nil, nil }

func (d *modelDisk) NextSequence() (uint64, error) {
	d.sequence++
	return d.sequence, nil
}

// private is the key of a generation, for the tunnels.
func (d *modelDisk) private(number uint32) (keys.PrivateKey, bool) {
	for _, g := range d.generations {
		if g.Number == number {
			return g.Private, true
		}
	}
	return keys.PrivateKey{}, false
}

func (d *modelDisk) Rotation() keys.Rotation {
	r := d.rotation
	r.Generations = slices.Clone(r.Generations)
	return r
}

func (d *modelDisk) RequestRotation() (already bool, err error) {
	already = d.rotation.Requested
	if !already {
		d.rotation.Requested = true
		d.wanted++
	}
	return already, nil
}

// Advance is keys.Store's, with the disk's own view of what may follow what.
func (d *modelDisk) Advance(step func(keys.Rotation) keys.Rotation) (keys.Rotation, error) {
	next := step(d.Rotation())
	d.validate(next)
	now := d.rotation
	if slices.Equal(now.Generations, next.Generations) && now.Announced == next.Announced &&
		now.Requested == next.Requested && now.MadeAt.Equal(next.MadeAt) {
		d.rotation.QuietSince = next.QuietSince
		return d.Rotation(), nil
	}
	d.writing = true
	err := d.n.write(modelStore, "writing the key store: generations %v announced %t", next.Generations, next.Announced)
	d.writing = false
	if err != nil {
		return d.Rotation(), err
	}
	if len(next.Generations) < len(now.Generations) {
		d.n.checkDrain(now.Generations[0])
	}
	if newest := next.Generations[len(next.Generations)-1]; newest != now.Generations[len(now.Generations)-1] {
		d.add(newest)
	}
	d.generations = slices.DeleteFunc(slices.Clone(d.generations), func(g keys.Generation) bool {
		return !slices.Contains(next.Generations, g.Number)
	})
	next.MadeAt = next.MadeAt.UTC().Truncate(time.Second)
	if len(next.Generations) < len(now.Generations) {
		d.n.w.seen.rotations++
	}
	d.rotation = next
	d.n.point("the key store is written")
	return d.Rotation(), nil
}

// validate checks invariant 4 where generations change: by one at a time, upwards, and two at most.
func (d *modelDisk) validate(next keys.Rotation) {
	now := d.rotation.Generations
	newest := now[len(now)-1]
	switch {
	case slices.Equal(now, next.Generations):
	case len(now) == 1 && slices.Equal(next.Generations, []uint32{newest, newest + 1}) && newest < d.wanted:
	case len(now) == 2 && slices.Equal(next.Generations, now[1:]):
	default:
		d.n.w.fail(4, "%s goes from generations %v to %v, with requests up to %d", d.n.name, now, next.Generations, d.wanted)
	}
}

package attach

import (
	"context"
	"errors"
	"fmt"

	"github.com/weaveguard/weaveguard/cni/store"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// restore puts attachments back that were in the store when it was looked at last, can't be read there now, and whose interface is
// still there: the plugin removes an interface before its attachment, so somebody removed or damaged those by hand, and their
// addresses would be given to other pods. It returns how many it put back, and all that is attached now.
func (a *Attach) restore(ctx context.Context, all []store.Attachment, present map[string]bool) (int, []store.Attachment, error) {
	var lost []store.Attachment
	known := make(map[store.ID]store.Attachment, len(all))
	for _, at := range all {
		known[at.ID] = at
	}
	for id, at := range a.known {
		if _, stored := known[id]; !stored && present[at.HostIfName] {
			lost = append(lost, at)
		}
	}
	for _, at := range lost {
		known[at.ID] = at // if that fails now, it is tried again as long as its interface is there
	}
	a.known = known
	if len(lost) == 0 {
		return 0, all, nil
	}
	restored, err := a.putBack(ctx, lost)
	return len(restored), append(all, restored...), err
}

// putBack stores attachments, each if it isn't stored or its file is damaged, its interface is there still, and nobody else has one of its addresses now.
func (a *Attach) putBack(ctx context.Context, lost []store.Attachment) (restored []store.Attachment, err error) {
	err = a.alone(ctx, "putting attachments back that somebody removed", func(tx *store.Tx, present map[string]bool) error {
		var errs []error
		for _, at := range lost {
			_, err := tx.Get(at.ID)
			if err == nil || !present[at.HostIfName] {
				continue
			}
			if errors.Is(err, store.ErrNotFound) {
				err = nil
			} else {
				err = tx.Remove(at.ID) // what is left of it
			}
			if err == nil {
				err = putOne(tx, at)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("the attachment of pod %s/%s was removed from %s, or damaged, by hand: putting it back: %w",
					at.PodNamespace, at.PodName, a.cfg.StoreDir, err))
				continue
			}
			restored = append(restored, at)
			view.Made(ctx, fmt.Sprintf("storing the attachment of pod %s/%s with the addresses %v again", at.PodNamespace, at.PodName, at.Addresses))
		}
		return errors.Join(errs...)
	})
	return restored, err
}

// putOne stores one attachment with all its addresses, or nothing of it.
func putOne(tx *store.Tx, at store.Attachment) error {
	for i, address := range at.Addresses {
		free, err := tx.Reserve(at.ID, address)
		if err == nil && !free {
			err = fmt.Errorf("another pod was given %s meanwhile: delete one of the two", address)
		}
		if err != nil {
			return errors.Join(err, tx.Release(at.ID, at.Addresses[:i]...))
		}
	}
	if err := tx.Put(at); err != nil {
		return errors.Join(err, tx.Release(at.ID, at.Addresses...))
	}
	return nil
}

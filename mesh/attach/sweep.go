package attach

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/weaveguard/weaveguard/cni/store"
)

// sweepAfter is for how long an attachment's interface is missed before the attachment is forgotten.
const sweepAfter = 10 * time.Second

// lockWait is how long the sweep waits for plugins that change the store.
const lockWait = 2 * time.Second

// sweep forgets attachments whose interface is gone, and with it their sandbox: containerd calls no GC, and a runtime that
// was killed may never call DEL. The interface tells, whose other end is in the sandbox: where sandboxes are isn't
// visible from the agent's container. An ADD that is this slow finds its attachment gone, and fails. Those that somebody
// removed by hand it puts back. It returns how many it changed, and what was attached before it forgot some.
func (a *Attach) sweep(ctx context.Context) (int, []store.Attachment, error) {
	all, errList := a.Attachments(ctx)
	if ctx.Err() != nil {
		return 0, nil, ctx.Err()
	}
	present, err := a.interfaces()
	if err != nil {
		return 0, all, err
	}
	restored, all, errRestore := a.restore(ctx, all, present)
	if errRestore != nil {
		return restored, all, errRestore
	}
	if len(all) == 0 && errList != nil { // else the status says of what can't be read, and what can is seen to
		return 0, nil, errList
	}
	now := time.Now()
	missed := make(map[store.ID]time.Time)
	var gone []store.Attachment
	for _, at := range all {
		if present[at.HostIfName] {
			continue
		}
		since, known := a.missed[at.ID]
		if !known {
			since = now
		}
		missed[at.ID] = since
		if now.Sub(since) >= sweepAfter && now.Sub(at.Created).Abs() >= sweepAfter { // of the future: the clock was set back since
			gone = append(gone, at)
		}
	}
	a.missed = missed
	if len(gone) == 0 {
		return restored, all, nil
	}
	removed, err := a.forget(ctx, gone)
	return restored + removed, all, err
}

// forget removes attachments whose interface is still missing now that no plugin changes the store.
func (a *Attach) forget(ctx context.Context, gone []store.Attachment) (removed int, err error) {
	const doing = "sweeping attachments whose sandbox is gone"
	err = a.alone(ctx, doing, func(tx *store.Tx, present map[string]bool) error {
		for _, at := range gone {
			now, err := tx.Get(at.ID)
			if err != nil || present[at.HostIfName] || !now.Created.Equal(at.Created) {
				continue // detached, or attached again
			}
			if err := tx.Remove(at.ID); err != nil {
				return fmt.Errorf("%s: %w; %s", doing, err, remedy(err))
			}
			removed++
			delete(a.missed, at.ID)
			a.cfg.Log.InfoContext(ctx, "attachment forgotten: its sandbox is gone, and the runtime didn't say so", "container", at.ContainerID,
				"interface", at.IfName, "pod", at.PodNamespace+"/"+at.PodName, "addresses", at.Addresses)
		}
		return nil
	})
	return removed, err
}

// alone changes the store while no plugin does, by the names of the interfaces that there are then.
func (a *Attach) alone(ctx context.Context, doing string, do func(tx *store.Tx, present map[string]bool) error) (err error) {
	s, err := store.Open(a.cfg.StoreDir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	tx, err := s.Lock(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	defer func() { err = errors.Join(err, tx.Unlock()) }()
	present, err := a.interfaces()
	if err != nil {
		return err
	}
	return do(tx, present)
}

// interfaces are the names of this host's.
func (a *Attach) interfaces() (map[string]bool, error) {
	list := a.cfg.Interfaces
	if list == nil {
		list = net.Interfaces
	}
	all, err := list()
	if err != nil {
		return nil, fmt.Errorf("listing this host's interfaces: %w", err)
	}
	names := make(map[string]bool, len(all))
	for _, i := range all {
		names[i.Name] = true
	}
	return names, nil
}

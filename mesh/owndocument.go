package mesh

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	// documentInterval is the least time between two documents of this node, and documentScale, times the number of nodes,
	// that in a big mesh: all of them fetch each.
	documentInterval = 2 * time.Second
	documentScale    = 40 * time.Millisecond
)

// ownDocument is what this node says beside its record. The loop owns it.
type ownDocument struct {
	raw      []byte // nil: there is none
	hash     [sha256.Size]byte
	document record.Document
	changed  time.Time // when it was made; zero: by an earlier agent
	due      time.Time // when the next one may be made; zero: none is needed
}

// resume goes on with what an earlier agent said, so that nobody has to fetch it again.
func (a *Agent) resume(raw []byte) error {
	if len(raw) == 0 {
		return nil
	}
	document, err := record.OpenDocument(a.Node, raw, a.Keys.Identity().Public())
	if err == nil {
		a.document = ownDocument{raw: raw, hash: record.HashDocument(raw), document: document}
	}
	return err
}

// say makes the document of these networks and this roster, if it isn't that already and if it is time, and returns what
// changes by it.
func (a *Agent) say(networks []view.Network, roster []record.Attachment, now time.Time) (change, error) {
	wanted := make([]record.Network, 0, len(networks))
	for _, n := range networks {
		wanted = append(wanted, record.Network{Name: n.Name, Ranges: n.Ranges, CIDRs: n.CIDRs})
	}
	own := &a.document
	own.due = time.Time{}
	if slices.EqualFunc(own.document.Networks, wanted, equalNetworks) && tells(own.document, roster) {
		return nothing, nil
	}
	interval := max(documentInterval, documentScale*time.Duration(len(a.book.entries)+1))
	if next := own.changed.Add(interval); !own.changed.IsZero() && next.After(now) {
		own.due = next
		return nothing, nil
	}
	if len(wanted)+len(roster) == 0 {
		changed := changeOfDocument(own.document, record.Document{})
		*own = ownDocument{changed: now}
		return changed, nil
	}
	version, err := a.Keys.NextSequence()
	if err != nil {
		return nothing, err
	}
	document, err := record.FitRoster(record.Document{Version: version, Networks: wanted, Roster: roster})
	if err != nil {
		return nothing, err
	}
	raw, err := record.SignDocument(a.Node, document, a.Keys.Identity())
	if err != nil {
		return nothing, err
	}
	changed := changeOfDocument(own.document, document)
	*own = ownDocument{raw: raw, hash: record.HashDocument(raw), document: document, changed: now}
	return changed, nil
}

// in completes a record with what it says of the document.
func (o *ownDocument) in(r record.Record) record.Record {
	r.DocumentVersion, r.DocumentHash = o.document.Version, o.hash
	return r
}

package mesh

import (
	"context"
	"slices"

	"github.com/weaveguard/weaveguard/mesh/record"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// roster is what is attached on this node, as its document has it. What can't be read is missing; the status says so.
func (a *Agent) roster(ctx context.Context, networks []view.Network) []record.Attachment {
	attached, err := a.Attach.Attachments(ctx)
	if err != nil && len(attached) == 0 && ctx.Err() == nil {
		return a.document.document.Roster // it was readable a moment ago
	}
	all := make([]record.Attachment, 0, len(attached))
	for _, at := range attached {
		if i := slices.IndexFunc(networks, func(n view.Network) bool { return n.Bridge == at.Bridge }); i >= 0 {
			at.Network = networks[i].Name
		} else if at.Bridge == a.Bridge {
			at.Network = ""
		}
		if at.Validate() == nil { // of an odd runtime; status counts it
			all = append(all, at.Attachment)
		}
	}
	slices.SortFunc(all, record.Attachment.Compare)
	return slices.CompactFunc(all, func(a, b record.Attachment) bool { return a.Compare(b) == 0 })
}

// tells reports whether a document has a roster, or as much of it as there is room for.
func tells(d record.Document, roster []record.Attachment) bool {
	has := len(d.Roster)
	return has+int(d.Omitted) == len(roster) && slices.EqualFunc(d.Roster, roster[:has], equalAttachments)
}

func equalAttachments(a, b record.Attachment) bool {
	return a.Compare(b) == 0 && slices.Equal(a.Addresses, b.Addresses)
}

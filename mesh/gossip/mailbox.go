package gossip

import (
	"bytes"
	"slices"
	"sync"
)

// maxMail is how many messages wait for the agent at most, and maxParcels how many of those that are larger than
// maxMessage. With maxMessage and maxDelivery each that is 1 MiB and 4 MiB, however fast they come.
const (
	maxMail    = 1024
	maxParcels = 64
)

// mailbox keeps messages until they are taken. When there are too many the oldest goes: who sent it repeats it
// for as long as it matters, and of what is repeated the latest is true. Safe for concurrent use; no method waits.
type mailbox struct {
	most int // how many it holds, more than 0

	mu   sync.Mutex
	mail [][]byte // oldest first
}

// put keeps a copy of message, and reports whether an older one was lost for it.
func (b *mailbox) put(message []byte) (lost bool) {
	kept := bytes.Clone(message)
	b.mu.Lock()
	defer b.mu.Unlock()
	if lost = len(b.mail) >= b.most; lost {
		b.mail = slices.Delete(b.mail, 0, 1)
	}
	b.mail = append(b.mail, kept)
	return lost
}

// take empties the mailbox. What it returns, oldest first, belongs to the caller.
func (b *mailbox) take() [][]byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	mail := b.mail
	b.mail = nil
	return mail
}

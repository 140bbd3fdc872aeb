package gossip

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

func TestMailboxKeepsTheNewest(t *testing.T) {
	b := mailbox{most: maxMail}
	const surplus = 3 * maxMail
	for i := range maxMail + surplus {
		if lost := b.put(fmt.Appendf(nil, "message %d", i)); lost != (i >= maxMail) {
			t.Fatalf("message %d: one is lost for it: %t", i, lost)
		}
	}
	if room := cap(b.mail); room > 2*maxMail {
		t.Errorf("room for %d messages, at most %d are held", room, maxMail)
	}
	mail := b.take()
	if len(mail) != maxMail {
		t.Fatalf("%d messages, want %d", len(mail), maxMail)
	}
	for i, m := range mail {
		if want := fmt.Sprintf("message %d", surplus+i); string(m) != want {
			t.Fatalf("message %d is %q, want %q", i, m, want)
		}
	}
	if again := b.take(); len(again) > 0 {
		t.Errorf("taken twice: %q", again)
	}
	if b.put([]byte("x")) {
		t.Error("a mailbox that was emptied is full")
	}
}

// memberlist uses its buffers again.
func TestMailboxCopies(t *testing.T) {
	b := mailbox{most: maxMail}
	buf := []byte("abc")
	b.put(buf)
	copy(buf, "XYZ")
	if mail := b.take(); len(mail) != 1 || string(mail[0]) != "abc" {
		t.Errorf("the mailbox holds %q, want a copy of abc", mail)
	}
}

// Every message is taken once or counted as lost, whoever puts and takes at the same time.
func TestMailboxConcurrently(t *testing.T) {
	const writers, each = 4, 5 * maxMail
	b := mailbox{most: maxMail}
	var lost, taken atomic.Int64
	var writing sync.WaitGroup
	for range writers {
		writing.Go(func() {
			for range each {
				if b.put([]byte("x")) {
					lost.Add(1)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writing.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		taken.Add(int64(len(b.take())))
	}
	if got := lost.Load() + taken.Load(); got != writers*each {
		t.Errorf("%d lost and %d taken, want %d together", lost.Load(), taken.Load(), writers*each)
	}
}

func TestNotifyMsg(t *testing.T) {
	for size, want := range map[int]bool{0: false, 1: true, maxMessage: true, maxMessage + 1: true, maxDelivery: true, maxDelivery + 1: false, 20 << 20: false} {
		g := &Gossip{tally: newTally(), news: make(chan struct{}, 1), mail: mailbox{most: 1}, parcel: mailbox{most: 1}}
		delegate{g}.NotifyMsg(make([]byte, size))
		if mail := g.Messages(); (len(mail) == 1 && len(mail[0]) == size) != want {
			t.Errorf("%d bytes: %d messages, want one: %t", size, len(mail), want)
		}
		if told := len(g.news) == 1; told != want {
			t.Errorf("%d bytes: told: %t, want %t", size, told, want)
		}
		if counted := g.Counters()[reasonMessageSize] == 1; counted == want {
			t.Errorf("%d bytes: counted %v", size, g.Counters())
		}
	}
}

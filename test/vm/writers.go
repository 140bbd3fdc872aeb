package vm

import (
	"bytes"
	"io"
	"sync"
)

// consoleTail is how much of the console an error quotes, in bytes.
const consoleTail = 4 << 10

// tailBuffer keeps the end of what is written. Its zero value is ready.
type tailBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > 2*consoleTail {
		t.b = append([]byte(nil), t.b[len(t.b)-consoleTail:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b[max(0, len(t.b)-consoleTail):])
}

// lineWatch closes seen when a whole line has been written through it.
type lineWatch struct {
	w    io.Writer
	seen chan struct{}
	done bool
}

func (l *lineWatch) Write(p []byte) (int, error) {
	n, err := l.w.Write(p)
	if !l.done && bytes.IndexByte(p, '\n') >= 0 {
		l.done = true
		close(l.seen)
	}
	return n, err
}

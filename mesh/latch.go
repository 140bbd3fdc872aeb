package mesh

// Latch says that something changed, any number of times over, until it is taken. Safe for concurrent use.
type Latch chan struct{}

// NewLatch returns a latch that isn't set.
func NewLatch() Latch { return make(Latch, 1) }

// Set sets the latch. It never blocks.
func (l Latch) Set() {
	select {
	case l <- struct{}{}:
	default:
	}
}

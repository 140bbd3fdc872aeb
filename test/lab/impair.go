package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// Impairment is what a bad line does to each frame, whichever way it goes.
type Impairment struct {
	Loss      float64       // the share of frames that vanish, 0 to 1
	Duplicate float64       // the share of frames that come twice
	Delay     time.Duration // of all
	Jitter    time.Duration // at most so much more, at random: frames overtake each other
}

// maxFrame is the largest frame that a line carries; longer ones don't leave a port.
const maxFrame = 1 << 16

// Impair puts a bad line between the host's port and the fabric, until heal is called. The kernel of the lab may lack
// sch_netem, so frames pass through this process, which forwards some ten thousand a second. Rules of CutPair and of Block… that
// name the host don't match meanwhile.
func (h *Host) Impair(i Impairment) (heal func() error, err error) {
	bridge, near, far := "line-"+h.Name, "near-"+h.Name, "far-"+h.Name
	if _, err := h.lab.links.LinkByName(bridge); err != nil {
		if err := h.lab.addBridge(bridge); err != nil {
			return nil, err
		}
	}
	inside, err := h.lab.plug(near, bridge)
	if err != nil {
		return nil, err
	}
	outside, err := h.lab.plug(far, fabricBridge)
	if err == nil {
		err = h.join(bridge)
	}
	if err != nil {
		return nil, errors.Join(err, inside.Close(), outside.Close())
	}
	var ways sync.WaitGroup
	var there, back error
	ways.Go(func() { there = i.carry(inside, outside) })
	ways.Go(func() { back = i.carry(outside, inside) })
	return func() error {
		err := errors.Join(h.Heal(), inside.Close(), outside.Close())
		ways.Wait()
		return errors.Join(err, there, back)
	}, nil
}

// carry passes frames on until one of the files is closed.
func (i Impairment) carry(from, to *os.File) error {
	buffer := make([]byte, maxFrame)
	for {
		n, err := from.Read(buffer)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading from a bad line: %w", err)
		}
		copies := 1
		switch chance := rand.Float64(); {
		case chance < i.Loss:
			copies = 0
		case chance < i.Loss+i.Duplicate:
			copies = 2
		}
		for range copies {
			frame := append([]byte(nil), buffer[:n]...)
			time.AfterFunc(i.Delay+time.Duration(rand.Float64()*float64(i.Jitter)), func() {
				_, _ = to.Write(frame) // what is late for a closed line, or finds its queue full, is lost
			})
		}
	}
}

package mesh

import (
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// begin starts most of the nodes.
func (w *modelWorld) begin() {
	for _, n := range w.nodes {
		if n.number < 2 || w.chance(0.7) {
			w.after(w.between(0, time.Second), n.start)
		}
	}
	for _, from := range w.nodes {
		for _, to := range w.nodes {
			if w.busy[from.number][to.number] {
				w.flow(from, to)
			}
		}
	}
	if w.chance(0.8) {
		w.run(w.between(2*time.Second, 4*time.Second), nil)
	}
}

// flow lets pods of one node send to those of another one, again and again.
func (w *modelWorld) flow(from, to *modelNode) {
	w.after(w.between(time.Second, 3*time.Second), func() {
		if p, _ := w.carrier(from, to, from.routes[to.number]); p != nil {
			p.carry()
		}
		w.flow(from, to)
	})
}

// happenings are what can happen, and how often each does.
func (w *modelWorld) happenings() ([]func(), []int) {
	return []func(){
			func() { w.some().rotate(false) },
			w.rotateSeveral,
			w.crashSoon,
			w.partition,
			w.mend,
			w.block,
			w.unblock,
			w.join,
			w.silence,
			w.faults,
			func() { w.loss = w.rng.Float64() },
			w.reboot,
			func() { w.some().rotate(true) },
			func() { w.some().remembered = Remembered{} },
		},
		[]int{32, 20, 32, 12, 12, 8, 8, 12, 1, 8, 4, 4, 4, 4}
}

// play lets things happen.
func (w *modelWorld) play() {
	all, weights := w.happenings()
	for range 2 + w.rng.IntN(7) {
		all[w.pick(weights)]()
		switch w.pick([]int{40, 50, 10}) {
		case 0:
			w.run(w.now+w.between(0, 300*time.Millisecond), nil)
		case 1:
			w.run(w.now+w.between(0, 4*time.Second), nil)
		case 2:
			w.run(w.now+w.between(0, 20*time.Second), nil)
		}
		if w.failure != "" {
			return
		}
	}
}

// faults lets some writes of a node fail, to its kernel or its key store.
func (w *modelWorld) faults() {
	n := w.some()
	n.faulty = []modelPart{modelDevices, modelRoutes, modelStore}[w.rng.IntN(3)]
	n.faultIn, n.faults = w.rng.IntN(12), 1
	if w.chance(0.5) { // for more than one pass
		n.faultIn, n.faults = w.rng.IntN(6), 4+w.rng.IntN(12)
		n.rotate(false)
	}
	w.note("%s: after %d writes to the %s %d are to fail", n.name, n.faultIn, n.faulty, n.faults)
}

// some is a node at random.
func (w *modelWorld) some() *modelNode { return w.nodes[w.rng.IntN(len(w.nodes))] }

func (w *modelWorld) rotateSeveral() {
	p := []float64{0.5, 1}[w.rng.IntN(2)]
	for _, n := range w.nodes {
		if w.chance(p) {
			n.rotate(false)
		}
	}
}

// crashSoon ends an agent between any two of its next effects. It comes back after some time.
func (w *modelWorld) crashSoon() {
	n := w.some()
	if n.agent == nil {
		return
	}
	n.crashIn = w.rng.IntN(40)
	life := n.life
	w.note("%s: is to crash after %d effects", n.name, n.crashIn)
	w.after(w.soon(5*time.Second, 40*time.Second), func() {
		if n.life == life && !w.calm {
			n.crash()
		}
		w.after(w.soon(2*time.Second, 20*time.Second), n.start)
	})
}

func (w *modelWorld) partition() {
	w.part()
	if w.chance(0.7) {
		w.after(w.soon(8*time.Second, 30*time.Second), w.mend)
	}
}

// silence keeps packets from nodes for so long that no session outlives it: they are cut off, or the new links of a
// rotation are, which stands still for want of acknowledgements.
func (w *modelWorld) silence() {
	if w.chance(0.3) {
		w.loss = 1
		w.some().rotate(false)
		w.run(w.now+w.between(time.Second, 6*time.Second), nil)
		w.blockUsed()
	} else {
		w.part()
	}
	for _, n := range w.nodes {
		n.slow = 30 // fewer passes: it takes long enough
	}
	if w.chance(0.5) {
		w.some().rotate(false)
	}
	w.run(w.now+w.between(100*time.Second, 320*time.Second), nil)
	if w.chance(0.8) {
		w.mend()
		w.unblock()
	}
}

// blockUsed closes the ports that carry traffic of nodes with two keys.
func (w *modelWorld) blockUsed() {
	for _, from := range w.nodes {
		for _, to := range w.nodes {
			p, _ := w.carrier(from, to, from.routes[to.number])
			if p != nil && len(from.disk.rotation.Generations) > 1 {
				w.blocks = append(w.blocks, modelBlock{node: from.number, from: to.number, device: p.device.number})
			}
		}
	}
	w.note("%d ports in use are closed", len(w.blocks))
	w.changed = true
}

// part cuts one node off from another one, or from all, or some from the others.
func (w *modelWorld) part() {
	switch w.rng.IntN(3) {
	case 0:
		w.setCut(w.rng.IntN(len(w.nodes)), w.rng.IntN(len(w.nodes)), true)
	case 1:
		alone := w.rng.IntN(len(w.nodes))
		for i := range w.nodes {
			w.setCut(alone, i, true)
		}
	case 2:
		half := w.rng.IntN(1 << len(w.nodes))
		for i := range w.nodes {
			for j := range i {
				if half>>i&1 != half>>j&1 {
					w.setCut(i, j, true)
				}
			}
		}
	}
}

func (w *modelWorld) mend() {
	for i := range w.nodes {
		for j := range i {
			w.setCut(i, j, false)
		}
	}
}

// block closes a UDP port of a node for another one, in use or not.
func (w *modelWorld) block() {
	b := modelBlock{node: w.rng.IntN(len(w.nodes)), from: w.rng.IntN(len(w.nodes)), device: w.rng.IntN(contract.MaxDevices)}
	w.note("%s: its port %d is closed for %s", w.nodes[b.node].name, modelPort(b.device), w.nodes[b.from].name)
	w.blocks = append(w.blocks, b)
	w.changed = true
	if w.chance(0.5) {
		w.after(w.soon(10*time.Second, 60*time.Second), w.unblock)
	}
}

func (w *modelWorld) unblock() {
	if len(w.blocks) > 0 {
		w.note("all ports are open")
		w.blocks, w.changed = nil, true
	}
}

func (w *modelWorld) join() {
	for _, n := range w.nodes {
		if !n.joined {
			n.start()
			return
		}
	}
}

// reboot takes all from a node but its disk.
func (w *modelWorld) reboot() {
	n := w.some()
	if n.agent == nil {
		return
	}
	w.note("%s: reboots", n.name)
	n.crash()
	n.wipe()
	w.excuse(n)
	w.after(w.soon(2*time.Second, 40*time.Second), n.start)
}

// heal ends all that is bad.
func (w *modelWorld) heal() {
	w.note("from now on all is well")
	w.calm, w.loss, w.healed = true, 0, w.now
	w.mend()
	w.unblock()
	for _, n := range w.nodes {
		n.crashIn, n.faults = -1, 0
		n.slow = 3
		if n.joined {
			n.start()
		}
	}
}

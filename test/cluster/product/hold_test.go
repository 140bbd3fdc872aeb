package product_test

import (
	"context"
	"fmt"
	"strconv"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

// held is a rotation that can't end.
type held struct {
	*world
	node, peer string
	before     nodeKey // of the node
	rule       []string
}

// holdRotation has a node rotate, and keeps that in the middle: what the node sends to the peer's end of their next link
// is dropped there, so the peer goes on with the old key.
func (w *world) holdRotation(t *testing.T, node, peer string) *held {
	t.Helper()
	h := &held{world: w, node: node, peer: peer, before: w.mustNodeKey(t, node)}
	port := contract.BasePort + 2*(w.mustNodeKey(t, peer).generation%2) + (h.before.generation+1)%2
	h.rule = []string{"INPUT", "-s", w.address[node].String(), "-p", "udp", "--dport", strconv.Itoa(port), "-j", "DROP"}
	w.on(t, peer, append([]string{"iptables", "--wait", "--insert"}, h.rule...)...)
	t.Cleanup(func() { _ = h.drop(context.Background()) }) // however often; the test's context has ended by now
	w.annotate(t, node, "now")
	w.eventually(t, "the rotation of "+node+" waits for "+peer, func(ctx context.Context) error { return h.waits(ctx, uint16(port)) })
	return h
}

// waits tells whether the rotation waits for the peer alone, because of a port.
func (h *held) waits(ctx context.Context, port uint16) error {
	s, err := h.status(ctx, h.node)
	if err != nil {
		return err
	}
	if w := s.Rotation.Waiting; len(w) != 1 || w[0].Node != h.peer || w[0].Port != port || len(s.Generations) != 2 {
		return fmt.Errorf("it has the keys %v, and its rotation is %+v", s.Generations, s.Rotation)
	}
	return nil
}

// goesOn shows that it is still held, and that those who look at the Node learn by whom.
func (h *held) goesOn(t *testing.T) {
	t.Helper()
	h.describes(t, h.node, "KeyRotationWaiting", "waiting for "+h.peer)
	h.eventually(t, "the Node "+h.node+" says it too", func(ctx context.Context) error {
		k, err := h.nodeKey(ctx, h.node)
		if err == nil && (k.rotation != "establishing: waiting for "+h.peer || k.generation != h.before.generation+1) {
			err = fmt.Errorf("it says %+v", k)
		}
		return err
	})
}

// release lets it end.
func (h *held) release(t *testing.T) {
	t.Helper()
	if err := h.drop(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// drop takes the rule away.
func (h *held) drop(ctx context.Context) error {
	_, err := h.OnNode(ctx, h.peer, append([]string{"iptables", "--wait", "--delete"}, h.rule...)...)
	return err
}

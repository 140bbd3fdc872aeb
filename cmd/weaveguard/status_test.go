package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// However many nodes there are, the status fits a screen, names those that are down, and counts the rest.
func TestManyPeers(t *testing.T) {
	t.Parallel()
	for down, want := range map[int]string{
		0:   "200 are up: `weaveguard peers` lists them\n",
		13:  "3 more are down, and 187 are up: `weaveguard peers` lists all\n",
		2:   "198 others are up: `weaveguard peers` lists them\n",
		200: "190 more are down, and 0 are up: `weaveguard peers` lists all\n",
	} {
		s := view.Status{Node: "self", Ready: true}
		for i := range 200 {
			peer := view.PeerStatus{Node: fmt.Sprintf("node-%03d", i), Up: i >= down, Networks: []view.Network{{Name: "blue"}}}
			if !peer.Up {
				peer.Reason = "nothing is heard of it"
			}
			s.Peers = append(s.Peers, peer)
			s.Rotation.Waiting = append(s.Rotation.Waiting, view.RotationPeer{Node: peer.Node})
		}
		p := newPage(&strings.Builder{})
		p.status(s)
		text := p.buf.String()
		if lines := strings.Count(text, "\n"); !strings.Contains(text, want) || lines > 70 || strings.Contains(text, "node-199  up") {
			t.Errorf("with %d down it says in %d lines\n%s\nwant %q in it", down, lines, text, want)
		}
	}
}

// A problem of this node leads: peers that are down may follow from it.
func TestProblemLeads(t *testing.T) {
	t.Parallel()
	s := view.Status{
		Ready: true, Peers: []view.PeerStatus{{Node: "b", Reason: "nothing is heard of it"}},
		Problems: []view.Problem{{Subject: "w", Message: "m", Remedy: "r", Warning: true}},
	}
	if v := judge(s); v.headline != "not healthy: 1 of 1 peer is down: b: nothing is heard of it" || !strings.Contains(v.remedy, "`weaveguard doctor`") {
		t.Errorf("with a warning: %+v", v)
	}
	s.Problems = append(s.Problems, view.Problem{Subject: "x", Message: "m", Remedy: "do y"})
	if v := judge(s); v.healthy || v.headline != "not healthy: 1 of 1 peer is down, and this node says: x: m" || v.remedy != "do y" {
		t.Errorf("with a problem: %+v", v)
	}
}

func TestClockFact(t *testing.T) {
	t.Parallel()
	for offset, want := range map[float64]string{
		0: "as this node's", -0.04: "as this node's", 2.25: "2.2 s ahead of this node's", -3600.2: "1h0m behind this node's",
	} {
		if got := clockFact(offset); got != want {
			t.Errorf("%v s are %q, want %q", offset, got, want)
		}
	}
	peer := peerAnswer{PeerStatus: view.PeerStatus{ClockOffset: new(float64)}}
	if facts := fmt.Sprint(peerFacts(view.Status{}, peer)); !strings.Contains(facts, "[clock as this node's]") {
		t.Errorf("the facts of a peer lack its clock: %s", facts)
	}
}

package mesh

import (
	"reflect"
	"slices"
	"time"

	"github.com/weaveguard/weaveguard/mesh/record"
)

// change is how much of what is known of the mesh became different.
type change int

const (
	nothing change = iota
	// rosters changed, and what follows of it: sequence numbers, versions and hashes. Nobody's traffic depends on them.
	rosters
	everything
)

const (
	// rostersSaved is how often the cache is written for the sake of rosters alone: as long as pods come and go they change
	// every few seconds, on any node.
	rostersSaved = 30 * time.Second
	// rostersRest is how long the loop rests at least after a pass that had nothing but rosters to see to.
	rostersRest = 200 * time.Millisecond
)

// changeOf is everything if there is one.
func changeOf(any bool) change {
	if any {
		return everything
	}
	return nothing
}

// changeOfRecord compares a record that counts with the one before.
func changeOfRecord(before, after record.Record) change {
	before.Sequence, before.DocumentVersion, before.DocumentHash = after.Sequence, after.DocumentVersion, after.DocumentHash
	if reflect.DeepEqual(before, after) {
		return rosters
	}
	return everything
}

// changeOfDocument compares a document in force with the one before.
func changeOfDocument(before, after record.Document) change {
	if slices.EqualFunc(before.Networks, after.Networks, equalNetworks) {
		return rosters
	}
	return everything
}

func equalNetworks(a, b record.Network) bool {
	return a.Name == b.Name && slices.Equal(a.Ranges, b.Ranges) && slices.Equal(a.CIDRs, b.CIDRs)
}

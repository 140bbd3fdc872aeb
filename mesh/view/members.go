package view

import (
	"errors"
	"fmt"
	"strings"
)

// maxKnown is how many names an error lists.
const maxKnown = 4

// UnknownNode is why a node isn't forgotten that isn't known: its name isn't among those that are.
func UnknownNode(node string, known []string) error {
	switch {
	case len(known) == 0:
		return errors.New("no other node is known here")
	case len(known) > maxKnown:
		return fmt.Errorf("no node %s is known here: `weaveguard peers` has the names", node)
	}
	return fmt.Errorf("no node %s is known here; known are %s", node, strings.Join(known, ", "))
}

// NodeRuns is why a node isn't forgotten whose agent is heard of at some addresses.
func NodeRuns(node, addresses string) error {
	return fmt.Errorf("the agent of %s still runs, at %s, and would come back by itself: stop it there first "+
		"(when it has just ended without a word, this node knows within a minute). To forget what it has said so far all the "+
		"same, use --force: it is back when it says something new", node, addresses)
}

// UnknownHost is why no host is joined: the address of one can't be found.
func UnknownHost(host string, err error) error {
	return fmt.Errorf("no host is joined: finding the address of %s: %w", host, err)
}

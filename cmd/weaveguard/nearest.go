package main

import (
	"cmp"
	"slices"
	"strings"
)

// nearest are the names that somebody who wrote another one may have meant, the likeliest first: those that differ in a
// few letters, or begin as it does. There are mostOffered at most.
func nearest(name string, names []string) []string {
	type candidate struct {
		name     string
		distance int
	}
	limit := max(2, len(name)/4)
	var near []candidate
	for _, n := range names {
		d := distance(strings.ToLower(name), strings.ToLower(n))
		if d > limit && name != "" && strings.HasPrefix(n, name) {
			d = limit
		}
		if d <= limit {
			near = append(near, candidate{n, d})
		}
	}
	slices.SortFunc(near, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.distance, b.distance), cmp.Compare(a.name, b.name))
	})
	var offered []string
	for _, c := range near[:min(len(near), mostOffered)] {
		offered = append(offered, c.name)
	}
	return offered
}

const mostOffered = 3

// distance is how many letters have to be put in, left out or changed to make one text of the other (Levenshtein).
func distance(a, b string) int {
	from, to := []rune(a), []rune(b)
	row := make([]int, len(to)+1) // of the prefix of from that was looked at, to each prefix of to
	for j := range row {
		row[j] = j
	}
	for i, f := range from {
		diagonal := row[0]
		row[0] = i + 1
		for j, t := range to {
			change := diagonal
			if f != t {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, diagonal+1)
		}
	}
	return row[len(to)]
}

// unknown says that there is no such thing, and which ones may have been meant: what is "node", and list the command
// that lists them all.
func unknown(what, name string, names []string, list string) error {
	remedy := "see `" + list + "`"
	if near := nearest(name, names); len(near) > 0 {
		remedy = "did you mean " + alternatives(near) + "? " + "`" + list + "` lists all"
	}
	return &adviceError{"no " + what + " has the name " + name, remedy}
}

// alternatives is a list in words: a, b or c.
func alternatives(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

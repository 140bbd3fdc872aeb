package main

import (
	"bytes"
	"fmt"
	"html"
	"strings"
	"unicode/utf8"

	"github.com/weaveguard/weaveguard/mesh/view"
)

// leaf is a thing in a drawing of the topology, with what is below it.
type leaf struct {
	title string
	down  bool
	below []*leaf
}

// leaves are the topology as a tree: nodes, their networks, what is attached to them.
func leaves(t view.Topology) []*leaf {
	var nodes []*leaf
	for _, n := range t.Nodes {
		node := &leaf{title: n.Name, down: !n.Up}
		if n.Endpoint != "" {
			node.title += " " + n.Endpoint
		}
		for _, network := range n.Networks {
			branch := &leaf{title: networkTitle(network)}
			for _, at := range network.Attachments {
				branch.below = append(branch.below, &leaf{title: attachmentTitle(at), down: at.Stray})
			}
			node.below = append(node.below, branch)
		}
		nodes = append(nodes, node)
	}
	return nodes
}

// dot is the topology for Graphviz, in its DOT language.
func dot(t view.Topology) []byte {
	var b bytes.Buffer
	b.WriteString("graph mesh {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n")
	count := 0
	var draw func(l *leaf) int
	draw = func(l *leaf) int {
		id := count
		count++
		style := ""
		if l.down {
			style = ", color=red"
		}
		fmt.Fprintf(&b, "  n%d [label=%s%s];\n", id, dotQuote(l.title), style)
		for _, below := range l.below {
			fmt.Fprintf(&b, "  n%d -- n%d;\n", id, draw(below))
		}
		return id
	}
	for _, l := range leaves(t) {
		draw(l)
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// dotQuote is a text as DOT has it: in quotes, of which those inside and backslashes are escaped.
func dotQuote(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(printable(text)) + `"`
}

// Sizes in the drawing, in pixels.
const (
	svgMargin = 16
	svgRow    = 26  // from one line to the next
	svgHeight = 20  // of a box
	svgGap    = 48  // between columns
	svgLetter = 7.3 // width of a letter of 12 pixels
)

// svg is the topology as a drawing: a column each of nodes, networks and pods, with lines between them.
func svg(t view.Topology) []byte {
	nodes := leaves(t)
	var widths [3]float64
	var measure func(all []*leaf, column int)
	measure = func(all []*leaf, column int) {
		for _, l := range all {
			widths[column] = max(widths[column], float64(utf8.RuneCountInString(printable(l.title))+2)*svgLetter)
			if len(l.below) > 0 {
				measure(l.below, column+1)
			}
		}
	}
	measure(nodes, 0)
	var boxes, lines bytes.Buffer
	row := 0
	var draw func(l *leaf, column int, x float64) float64
	draw = func(l *leaf, column int, x float64) float64 {
		var ends []float64
		for _, below := range l.below {
			ends = append(ends, draw(below, column+1, x+widths[column]+svgGap))
		}
		y := float64(svgMargin + row*svgRow + svgHeight/2)
		if len(ends) == 0 {
			row++
		} else {
			y = (ends[0] + ends[len(ends)-1]) / 2
		}
		class := [3]string{"node", "network", "pod"}[column]
		if l.down {
			class += " down"
		}
		fmt.Fprintf(&boxes, "  <g class=%q><rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" rx=\"4\"/><text x=\"%.1f\" y=\"%.1f\">%s</text></g>\n",
			class, x, y-svgHeight/2, widths[column], svgHeight, x+svgLetter, y+4, html.EscapeString(printable(l.title)))
		for _, end := range ends {
			from, to := x+widths[column], x+widths[column]+svgGap
			fmt.Fprintf(&lines, "  <path d=\"M%.1f %.1fC%.1f %.1f %.1f %.1f %.1f %.1f\"/>\n", from, y, (from+to)/2, y, (from+to)/2, end, to, end)
		}
		return y
	}
	for _, l := range nodes {
		draw(l, 0, svgMargin)
	}
	var b bytes.Buffer
	width, height := widths[0]+widths[1]+widths[2]+2*svgGap+2*svgMargin, float64(2*svgMargin+row*svgRow)
	fmt.Fprintf(&b, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\">\n", width, height, width, height)
	b.WriteString("  <style>\n    text { font: 12px monospace; fill: #1b1f24 }\n    rect { fill: #fff; stroke: #57606a }\n" +
		"    path { fill: none; stroke: #8c959f }\n    .node rect { fill: #ddf4ff }\n    .network rect { fill: #f6f8fa }\n" +
		"    .down rect { fill: #ffebe9; stroke: #cf222e }\n  </style>\n  <rect width=\"100%\" height=\"100%\" style=\"stroke: none\"/>\n")
	b.Write(lines.Bytes())
	b.Write(boxes.Bytes())
	b.WriteString("</svg>\n")
	return b.Bytes()
}

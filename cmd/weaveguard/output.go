package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/weaveguard/weaveguard/mesh/api"
)

const (
	defaultWidth = 80
	minWidth     = 20
	columnGap    = 2
	indentStep   = "  "
)

// page collects what a command says, in lines of a limited width, to print it at once.
type page struct {
	width  int
	colour bool
	buf    bytes.Buffer
}

func newPage(out io.Writer) *page {
	s := newScreen(out)
	return &page{width: s.width, colour: s.colour}
}

// printTo ends the page.
func (p *page) printTo(out io.Writer) error { return printed(out.Write(p.buf.Bytes())) }

// space leaves a line empty, but not the first one.
func (p *page) space() {
	if p.buf.Len() > 0 {
		p.buf.WriteByte('\n')
	}
}

// text adds a paragraph. The first line begins with indent, the others with two spaces more.
func (p *page) text(indent, text string) { p.flow(indent, indent+indentStep, words(text)) }

// words are what a line can be broken between. What stands between backquotes is to be copied, and stays together.
func words(text string) []string {
	var items []string
	open := false
	for _, word := range strings.Fields(printable(text)) {
		if open {
			items[len(items)-1] += " " + word
		} else {
			items = append(items, word)
		}
		open = open != (strings.Count(word, "`")%2 == 1)
	}
	return items
}

// flow fills lines with items that mustn't be broken, with spaces between them. The first line begins with first,
// the others with rest. An item that is wider than a line gets a line of its own.
func (p *page) flow(first, rest string, items []string) {
	line, empty := first, true
	for _, item := range items {
		if !empty && columns(line+" "+item) > p.width {
			p.buf.WriteString(line + "\n")
			line, empty = rest, true
		}
		if !empty {
			line += " "
		}
		line, empty = line+item, false
	}
	p.buf.WriteString(line + "\n")
}

// columns is how wide a text is on a terminal.
func columns(text string) int { return utf8.RuneCountInString(painted.ReplaceAllString(text, "")) }

// printable keeps what other hosts wrote from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case unicode.IsPrint(r):
			return r
		}
		return '?'
	}, text)
}

// facts adds lines of a name and a value, the values below each other. A value that is too long goes on below.
func (p *page) facts(facts [][2]string) {
	widest := 0
	for _, fact := range facts {
		widest = max(widest, columns(fact[0]))
	}
	below := strings.Repeat(" ", widest+columnGap)
	for _, fact := range facts {
		p.flow(fact[0]+below[columns(fact[0]):], below, words(fact[1]))
	}
}

// table adds rows below a header, or, where that is too wide, a paragraph for each row: its first cell, and below it
// the others with the names of their columns.
func (p *page) table(header []string, rows [][]string) {
	widths := make([]int, len(header))
	cells := make([][]string, 0, len(rows)+1)
	for n, row := range append([][]string{header}, rows...) {
		line := make([]string, len(row))
		for i, cell := range row {
			cell = printable(cell)
			widths[i] = max(widths[i], columns(cell))
			if line[i] = cell; n > 0 {
				line[i] = p.paint(cellColour(header[i], cell), cell)
			}
		}
		cells = append(cells, line)
	}
	lines, fits := make([]string, len(cells)), true
	for i, row := range cells {
		for j, cell := range row {
			lines[i] += cell + strings.Repeat(" ", widths[j]-columns(cell)+columnGap)
		}
		lines[i] = strings.TrimRight(lines[i], " ")
		fits = fits && columns(lines[i]) <= p.width
	}
	if fits {
		p.buf.WriteString(strings.Join(lines, "\n") + "\n")
		return
	}
	for _, row := range cells[1:] {
		p.flow("", indentStep, []string{row[0]})
		var items []string
		for i, cell := range row[1:] {
			item := label(header[i+1]) + " " + cell
			if i < len(row)-2 {
				item += ","
			}
			items = append(items, item)
		}
		p.flow(indentStep, indentStep+indentStep, items)
	}
}

// label is the name of a column in the middle of a sentence.
func label(title string) string {
	if title == "MTU" || title == "RTT" {
		return title
	}
	return strings.ToLower(title)
}

// explain takes an error apart into what is wrong and, if it is known, what to do.
func explain(err error) (message, remedy string) {
	var agentErr *api.AgentError
	if errors.As(err, &agentErr) {
		return agentErr.Message, agentErr.Remedy
	}
	var advice *adviceError
	if errors.As(err, &advice) {
		return advice.message, advice.remedy
	}
	var kubectl *kubectlError
	if errors.As(err, &kubectl) {
		return err.Error(), kubectl.remedy()
	}
	return err.Error(), ""
}

// complain prints an error and what to do about it.
func complain(out io.Writer, message, remedy string) {
	p := newPage(out)
	p.text("", voice+message)
	p.remedy("", remedy)
	_ = p.printTo(out) // there is nowhere left to complain to
}

// voice begins what isn't a command's answer.
const voice = "weaveguard: "

// say tells how far a command is.
func say(out io.Writer, message string) { complain(out, message, "") }

// remedy adds what to do, if anything.
func (p *page) remedy(indent, remedy string) {
	if remedy != "" {
		p.text(indent, "what to do: "+remedy)
	}
}

// size is a number of bytes in few characters, in powers of 1000.
func size(bytes int64) string { return humanize.Bytes(uint64(max(bytes, 0))) }

// age is a time span in at most two units.
func age(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// count is a number with its noun: 1 peer, 2 peers.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

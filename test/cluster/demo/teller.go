package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

const (
	width  = 80
	indent = "   "
	// timeWidth is the room at the end of a line that says how long something took.
	timeWidth = 9
)

// Colours of terminals (ECMA-48, Select Graphic Rendition).
const (
	bold  = "1"
	faint = "2"
	green = "32"
	red   = "31"
)

// teller is the voice of the demonstration: steps, what came of them, and how long they took, on 80 columns.
type teller struct {
	out   io.Writer
	color bool
	now   func() time.Time
	begun time.Time // of the step
}

// newTeller uses colours on a terminal, unless NO_COLOR is set.
func newTeller(out *os.File) *teller {
	return &teller{out: out, now: time.Now, color: term.IsTerminal(int(out.Fd())) && os.Getenv("NO_COLOR") == ""}
}

func (t *teller) paint(color, text string) string {
	if !t.color || text == "" {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// say prints a paragraph.
func (t *teller) say(format string, args ...any) {
	for _, line := range wrap(fmt.Sprintf(format, args...), width) {
		fmt.Fprintln(t.out, line)
	}
}

// step begins a step: number of all.
func (t *teller) step(number, of int, title string) {
	t.begun = t.now()
	fmt.Fprintf(t.out, "\n%s\n", t.paint(bold, fmt.Sprintf("%d/%d %s", number, of, title)))
}

// note tells progress within a step.
func (t *teller) note(format string, args ...any) {
	for _, line := range wrap(fmt.Sprintf(format, args...), width-len(indent)) {
		fmt.Fprintln(t.out, indent+t.paint(faint, line))
	}
}

// row prints a line of a table as it is.
func (t *teller) row(format string, args ...any) {
	fmt.Fprintln(t.out, indent+strings.TrimRight(fmt.Sprintf(format, args...), " "))
}

// done ends a step that went well, with how long it took at the end of the last line.
func (t *teller) done(format string, args ...any) { t.end(green, "✓ ", fmt.Sprintf(format, args...)) }

// failed ends a step that didn't.
func (t *teller) failed(err error) { t.end(red, "✗ ", err.Error()) }

func (t *teller) end(color, sign, text string) {
	took := fmt.Sprintf("%*.1f s", timeWidth-2, t.now().Sub(t.begun).Seconds())
	lines := wrap(text, width-len(indent)-utf8.RuneCountInString(sign)-timeWidth)
	for i, line := range lines {
		lead, tail := "  ", ""
		if i == 0 {
			lead = t.paint(color, sign)
		}
		if i == len(lines)-1 {
			room := width - len(indent) - 2 - utf8.RuneCountInString(line)
			tail = fmt.Sprintf("%*s", max(room, 0), took)
		}
		fmt.Fprintln(t.out, indent+lead+line+t.paint(faint, tail))
	}
}

// show prints a command, with its prompt, and below it what it said.
func (t *teller) show(command, output string) {
	fmt.Fprintf(t.out, "\n%s\n%s\n", t.paint(bold, command), strings.TrimRight(output, "\n"))
}

// wrap breaks a text into lines of at most so many columns, but words. It keeps the text's own line ends.
func wrap(text string, columns int) []string {
	var lines []string
	for paragraph := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		line := ""
		for _, word := range strings.Fields(paragraph) {
			switch {
			case line == "":
				line = word
			case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > columns:
				lines, line = append(lines, line), word
			default:
				line += " " + word
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// progress passes lines on as notes. The last line of all is kept back, as the result.
type progress struct {
	teller *teller
	rest   string // an unfinished line
	last   string
	lines  int
}

func (p *progress) Write(data []byte) (int, error) {
	text := p.rest + string(data)
	for {
		line, rest, found := strings.Cut(text, "\n")
		if !found {
			p.rest = text
			return len(data), nil
		}
		text = rest
		if strings.TrimSpace(line) == "" {
			continue
		}
		if p.lines > 0 {
			p.teller.note("%s", p.last)
		}
		p.last = line
		p.lines++
	}
}

package main

import (
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/term"
)

// screen is where a command prints to.
type screen struct {
	io.Writer
	width  int  // columns
	colour bool // colours are understood
}

// newScreen finds out how wide an output is: as many columns as a terminal has, else what $COLUMNS says, else 80.
// There are colours on a terminal, unless $NO_COLOR (no-color.org) is set or it is a dumb one.
func newScreen(out io.Writer) *screen {
	if s, ok := out.(*screen); ok {
		return s
	}
	s := &screen{Writer: out}
	if file, ok := out.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		s.width, _, _ = term.GetSize(int(file.Fd())) // 0 when it doesn't know
		s.colour = os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
	}
	if s.width == 0 {
		s.width, _ = strconv.Atoi(os.Getenv("COLUMNS"))
	}
	if s.width == 0 {
		s.width = defaultWidth
	}
	s.width = max(s.width, minWidth)
	return s
}

// colouring is the value of --color.
type colouring string

const (
	colourAuto   colouring = "auto"
	colourAlways colouring = "always"
	colourNever  colouring = "never"
)

// String, Set and Type make it a flag's value.
func (c *colouring) String() string { return string(*c) }
func (c *colouring) Type() string   { return "when" }
func (c *colouring) Set(value string) error {
	switch v := colouring(value); v {
	case colourAuto, colourAlways, colourNever:
		*c = v
		return nil
	}
	return errors.New("it takes auto, always or never")
}

// set makes a screen be as flags say.
func (s *screen) set(c colouring, width int) {
	if c != colourAuto {
		s.colour = c == colourAlways
	}
	if width > 0 {
		s.width = max(width, minWidth)
	}
}

// colour is a parameter of the control sequence "select graphic rendition" (ECMA-48, section 8.3.117).
type colour string

const (
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// paint colours a text where the screen understands that. The text has no control characters of its own: see printable.
func (p *page) paint(c colour, text string) string {
	if !p.colour || c == "" {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

var painted = regexp.MustCompile("\x1b\\[[0-9]*m")

// cellColour is the colour of a table's cell, in those columns that tell what is good and what is bad.
func cellColour(title, cell string) colour {
	switch title + " " + cell {
	case "STATE up", "LOSS 0%":
		return green
	case "STATE down", "LOSS 100%":
		return red
	}
	switch {
	case cell == "lost", cell == "down", strings.HasPrefix(cell, "down: "):
		return red
	case title == "LOSS" && cell != "-":
		return yellow
	}
	return ""
}

// Package service reads the project's units of systemd, so that tests run what systemd would.
package service

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"
)

// Unit is a unit of systemd.
type Unit struct {
	options []*unit.UnitOption
}

// Read reads a unit's file.
func Read(path string) (*Unit, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	options, err := unit.DeserializeOptions(file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return &Unit{options}, nil
}

// Values are all of a setting, in the order of the file.
func (u *Unit) Values(section, name string) []string {
	var values []string
	for _, o := range u.options {
		if o.Section == section && o.Name == name {
			values = append(values, o.Value)
		}
	}
	return values
}

// Value is the last one of a setting; "": there is none.
func (u *Unit) Value(section, name string) string {
	values := u.Values(section, name)
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// Environment reads an EnvironmentFile (systemd.exec(5)) without quotes: "NAME=value" in each line, and comments.
func Environment(text string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if name, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ";") {
			env[name] = value
		}
	}
	return env
}

var braced = regexp.MustCompile(`\$\{(\w+)\}`)

// Command is the words of ExecStart with an environment put in (systemd.service(5), "Command lines"): ${NAME} is a part of its
// word, and a word $NAME is as many words as there are in the value. There are no quotes in the project's units.
func (u *Unit) Command(env map[string]string) []string {
	var words []string
	for _, word := range strings.Fields(u.Value("Service", "ExecStart")) {
		if name, alone := strings.CutPrefix(word, "$"); alone && !strings.HasPrefix(name, "{") {
			words = append(words, strings.Fields(env[name])...)
			continue
		}
		words = append(words, braced.ReplaceAllStringFunc(word, func(ref string) string { return env[strings.Trim(ref, "${}")] }))
	}
	return words
}

// Variables are those that ExecStart takes from the environment, sorted.
func (u *Unit) Variables() []string {
	var names []string
	for _, ref := range regexp.MustCompile(`\$\{?(\w+)\}?`).FindAllStringSubmatch(u.Value("Service", "ExecStart"), -1) {
		names = append(names, ref[1])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Confined puts in front of a command what holds it to the unit's capabilities, and keeps it from getting others: setpriv(1).
func (u *Unit) Confined(command []string) []string {
	bounds := "-all"
	for capability := range strings.FieldsSeq(u.Value("Service", "CapabilityBoundingSet")) {
		bounds += ",+" + strings.ToLower(strings.TrimPrefix(capability, "CAP_"))
	}
	prefix := []string{"setpriv", "--bounding-set", bounds, "--inh-caps", bounds}
	if u.Value("Service", "NoNewPrivileges") == "yes" {
		prefix = append(prefix, "--no-new-privs")
	}
	return slices.Concat(prefix, []string{"--"}, command)
}

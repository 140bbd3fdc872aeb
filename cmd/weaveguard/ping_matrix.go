package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// atOnce is how many pods are asked at a time.
const atOnce = 8

// pingsFrom is what one node measured, in `kubectl weaveguard ping --matrix -o json`.
type pingsFrom struct {
	From    string       `json:"from"`
	Answers []pingAnswer `json:"answers"`
	Error   string       `json:"error,omitempty"` // why it couldn't measure
}

// addMatrix gives ping the flag by which all nodes ping all others.
func (pl *plugin) addMatrix(root *cobra.Command) {
	cmd, _, err := root.Find([]string{"ping"})
	if err != nil {
		return
	}
	var matrix bool
	cmd.Flags().BoolVar(&matrix, "matrix", false, "let every node ping every other, and show a matrix of the average times")
	one := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case !matrix:
			return one(cmd, args)
		case pl.node != "":
			return &adviceError{"--matrix is of all nodes, and --node names one", "leave one of them out"}
		case len(args) > 0 && args[0] != allNodes:
			return &adviceError{"--matrix is of all nodes, and " + args[0] + " is one", "leave one of them out"}
		}
		return pl.matrix(cmd)
	}
}

// matrix has all agents' nodes ping all others.
func (pl *plugin) matrix(cmd *cobra.Command) error {
	pods, err := pl.pods(cmd.Context())
	if err != nil {
		return err
	}
	line := []string{"ping", allNodes, "--output=json"}
	for _, name := range []string{"count", "interval", "timeout"} {
		line = append(line, "--"+name+"="+cmd.Flag(name).Value.String())
	}
	slices.SortFunc(pods, func(a, b agentPod) int { return strings.Compare(a.Spec.NodeName, b.Spec.NodeName) })
	all := make([]pingsFrom, len(pods))
	var measuring sync.WaitGroup
	free := make(chan struct{}, atOnce)
	for i, pod := range pods {
		free <- struct{}{}
		measuring.Go(func() {
			defer func() { <-free }()
			all[i] = pl.pingsOf(cmd.Context(), pod, line)
		})
	}
	measuring.Wait()
	if cmd.Context().Err() != nil {
		return errors.New("interrupted")
	}
	output := format(cmd.Flag("output").Value.String())
	if err := answer(cmd, output, all, func(p *page) { p.matrix(all) }); err != nil {
		return err
	}
	if slices.ContainsFunc(all, func(f pingsFrom) bool {
		return f.Error != "" || slices.ContainsFunc(f.Answers, func(a pingAnswer) bool { return a.Received == 0 })
	}) {
		return errNo
	}
	return nil
}

// pingsOf is what one node measures.
func (pl *plugin) pingsOf(ctx context.Context, pod agentPod, line []string) pingsFrom {
	from := pingsFrom{From: pod.Spec.NodeName, Answers: []pingAnswer{}}
	var stdout, stderr bytes.Buffer
	err := pl.execIn(ctx, pod, nil, &stdout, &stderr, line...)
	var ended *statusError
	if errors.As(err, &ended) && ended.code == exitNo {
		err = nil // some didn't answer
	}
	if err == nil {
		err = json.Unmarshal(stdout.Bytes(), &from.Answers)
	}
	if err != nil {
		said := strings.Join(strings.Fields(strings.TrimPrefix(stderr.String(), voice)), " ")
		if said == "" {
			said = err.Error()
		}
		from.Error = said
	}
	return from
}

// matrix shows the average times from the nodes in the rows to those in the columns, and what was lost.
func (p *page) matrix(all []pingsFrom) {
	if len(all) == 1 && all[0].Error == "" && len(all[0].Answers) == 0 {
		p.text("", all[0].From+" is the only node of this mesh: there is nobody to ping")
		return
	}
	var nodes []string
	for _, from := range all {
		nodes = append(nodes, from.From)
	}
	p.square(nodes, func(from int, to string) string { return matrixCell(all[from], to) })
	for i, from := range slices.DeleteFunc(slices.Clone(all), func(f pingsFrom) bool { return f.Error == "" }) {
		if i == 0 {
			p.space()
		}
		p.text("", from.From+" couldn't measure: "+from.Error)
	}
}

// square is a table from each node, the rows, to each, the columns.
func (p *page) square(nodes []string, cell func(from int, to string) string) {
	rows := make([][]string, len(nodes))
	for i, from := range nodes {
		rows[i] = []string{from}
		for _, to := range nodes {
			rows[i] = append(rows[i], cell(i, to))
		}
	}
	p.table(append([]string{"FROM"}, nodes...), rows)
}

// matrixCell is the way from a node to another: the average time, of each family's where there are two, and the loss.
func matrixCell(from pingsFrom, to string) string {
	var cells []string
	for _, a := range from.Answers {
		switch {
		case a.Node != to:
		case a.Received == 0:
			cells = append(cells, "lost")
		case a.Loss > 0:
			cells = append(cells, fmt.Sprintf("%s (%s lost)", milliseconds(a.Avg), percent(a.Loss)))
		default:
			cells = append(cells, milliseconds(a.Avg))
		}
	}
	switch {
	case len(cells) > 0:
		return strings.Join(cells, ", ")
	case from.From == to:
		return "-"
	}
	return "?"
}

// Command demo shows Weaveguard on a real Kubernetes of three nodes on this machine: it builds all, installs it with
// one manifest, lets pods on all nodes talk to each other, and looks at the wire. It says what it does and fails when
// anything of it does. It only uses what package cluster and kubectl give to everybody.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/weaveguard/weaveguard/test/cluster/internal/build"
)

func main() {
	// A second Ctrl-C doesn't cut the cleaning up short.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	var o options
	flag.IntVar(&o.nodes, "nodes", 3, "number of nodes, at least 2")
	flag.BoolVar(&o.keep, "keep", false, "leave the cluster running, for `make cluster-down` to end it")
	flag.StringVar(&o.manifest, "manifest", "deploy/weaveguard.yaml", "what is applied")
	flag.Parse()
	if err := run(ctx, o); err != nil {
		if !errors.Is(err, errTold) {
			fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		}
		stop()
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	nodes    int
	keep     bool
	manifest string // relative to the work tree, or absolute
}

// errTold is a failure that the user has been told of.
var errTold = errors.New("the demonstration failed")

func run(ctx context.Context, o options) error {
	if o.nodes < 2 || flag.NArg() > 0 {
		return errors.New("--nodes takes 2 or more, and there are no other arguments: see --help")
	}
	tree, err := build.Find()
	if err != nil {
		return err
	}
	d := &demo{options: o, tree: tree, teller: newTeller(os.Stdout)}
	return d.run(ctx)
}

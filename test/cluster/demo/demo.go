package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster"
	"github.com/weaveguard/weaveguard/test/cluster/internal/build"
)

const (
	// awaitTimeout bounds how long nodes, agents and pods may take. What is wrong is told every noteInterval.
	awaitTimeout = 2 * time.Minute
	noteInterval = 10 * time.Second
	// downTimeout bounds the cleaning up.
	downTimeout = 2 * time.Minute
)

// demo is one demonstration: each step finds here what those before it made.
type demo struct {
	options
	*teller
	tree    build.Tree
	cluster *cluster.Cluster
	nodes   []string
	agents  []agent
	pods    []pod
	capture *cluster.Capture
	control string // what every control datagram says, beside who sent it to whom
}

// step says what came of it in words.
type step struct {
	title string
	do    func(context.Context) (string, error)
}

func (d *demo) steps() []step {
	return []step{
		{"Build Weaveguard's image", d.buildImage},
		{"Build Kubernetes " + build.Version + " from source, the first time", d.buildKubernetes},
		{fmt.Sprintf("Start %d nodes without a pod network", d.options.nodes), d.start},
		{"Load the image into every node, and kubectl apply -f " + d.manifest, d.apply},
		{"Wait until all nodes are Ready, and all agents see each other", d.await},
		{"Start a pod on every node", d.startPods},
		{"Ping and fetch HTTP between all pairs of pods, and record the underlay", d.exchange},
		{"Look at what passed between the nodes meanwhile", d.inspect},
		{"Look at a node", d.look},
	}
}

// run takes the steps in turn and ends the cluster, unless it is to be kept. One that was interrupted is always ended.
func (d *demo) run(ctx context.Context) error {
	begin := time.Now()
	end := "and is removed at the end"
	if d.keep {
		end = "and goes on running at the end"
	}
	d.say("Weaveguard: %d Kubernetes nodes whose pods talk through WireGuard. All of it runs on this machine, in "+
		"namespaces of its own, %s.", d.options.nodes, end)
	err := d.walk(ctx)
	interrupted := ctx.Err() != nil
	ctx = context.WithoutCancel(ctx)
	if err != nil && !interrupted {
		d.explain(ctx)
	}
	kept := d.cluster != nil && d.keep && !interrupted
	if d.cluster != nil && !kept {
		err = errors.Join(err, d.down(ctx))
	}
	took := time.Since(begin).Seconds()
	switch {
	case interrupted:
		d.say("\nInterrupted after %.0f s.", took)
	case err != nil:
		d.say("\n%s after %.0f s.", d.paint(red, "The demonstration FAILED"), took)
	default:
		d.say("\n%s: %d nodes, %d pairs of pods, %.0f s.", d.paint(green, "All of it works"), len(d.nodes),
			len(d.pods)*(len(d.pods)-1)/2, took)
	}
	if kept {
		d.farewell()
	}
	if err != nil {
		return errTold
	}
	return nil
}

func (d *demo) walk(ctx context.Context) error {
	steps := d.steps()
	for i, s := range steps {
		d.step(i+1, len(steps), s.title)
		outcome, err := s.do(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			d.failed(err)
			return err
		}
		d.done("%s", outcome)
	}
	return nil
}

// down ends the cluster.
func (d *demo) down(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, downTimeout)
	defer cancel()
	d.begun = time.Now()
	d.say("\n%s", d.paint(bold, "Take the cluster down"))
	if err := d.cluster.Down(ctx); err != nil {
		d.failed(err)
		return err
	}
	d.done("nothing is left of it")
	return nil
}

// farewell says how to reach the cluster, and how to end it.
func (d *demo) farewell() {
	d.say("\n%s", d.paint(bold, "The cluster goes on running:"))
	fmt.Fprintf(d.out, `
  export KUBECONFIG=%s
  export PATH=%s:$PATH    # for kubectl
  kubectl get pods -A -o wide
  %s exec node-1 -- wg show
  make cluster-node-add      # one more node
  make cluster-down          # the end
`, d.tree.Path("build", "cluster", "kubeconfig"), d.tree.Programs(), d.tree.Path("build", "cluster-bin", "wgcluster"))
}

func (d *demo) buildImage(ctx context.Context) (string, error) {
	out := &progress{teller: d.teller}
	cmd := exec.CommandContext(ctx, "make", "image")
	cmd.Dir = d.tree.Root
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("make image: %w: %s", err, out.last)
	}
	return out.last, nil
}

func (d *demo) buildKubernetes(ctx context.Context) (string, error) {
	out := &progress{teller: d.teller}
	if err := cluster.Build(ctx, out); err != nil {
		return "", err
	}
	if out.lines == 0 {
		return "it is there already, in build/kubernetes", nil
	}
	d.note("%s", out.last)
	return "Kubernetes and the test images are built", nil
}

// start brings the nodes up. A cluster that is to be kept has the name that the other make targets use; any other
// has one that nobody else has, and ends with this process, however that ends.
func (d *demo) start(ctx context.Context) (string, error) {
	o := cluster.Options{Nodes: d.options.nodes}
	if d.keep {
		o.Name, o.Detached = cluster.DefaultName, true
	}
	c, err := cluster.Up(ctx, o)
	if err != nil {
		return "", err
	}
	d.cluster = c
	if d.nodes, err = c.Nodes(ctx); err != nil {
		return "", err
	}
	if err := d.until(ctx, "the nodes say that they have no network", d.withoutNetwork); err != nil {
		return "", err
	}
	return fmt.Sprintf("%s are NotReady: %q", list(d.nodes), noNetwork), nil
}

func (d *demo) apply(ctx context.Context) (string, error) {
	if err := d.cluster.LoadImage(ctx, d.tree.Path("build", "weaveguard-image.tar")); err != nil {
		return "", err
	}
	path := d.manifest
	if !filepath.IsAbs(path) {
		path = d.tree.Path(path)
	}
	manifest, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read the manifest: %w", err)
	}
	said, err := d.cluster.KubectlApply(ctx, string(manifest))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d objects are created", strings.Count(said, " created")), nil
}

// hopeless is an error that waiting doesn't heal.
type hopeless struct{ error }

// until polls like cluster.Poll, but not for what is hopeless, and tells from time to time what is missing.
func (d *demo) until(ctx context.Context, what string, check func(context.Context) error) error {
	told, said := time.Now(), ""
	var final error
	err := cluster.Poll(ctx, awaitTimeout, what, func(ctx context.Context) error {
		err := check(ctx)
		if _, no := errors.AsType[hopeless](err); no {
			final = err
			return nil
		}
		if err != nil && ctx.Err() == nil && time.Since(told) > noteInterval {
			told = time.Now()
			if first, _, _ := strings.Cut(err.Error(), "\n"); first != said {
				d.note("%.0f s: %s", told.Sub(d.begun).Seconds(), first)
				said = first
			}
		}
		return err
	})
	return errors.Join(final, err)
}

// list joins words as people do.
func list(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
	"github.com/weaveguard/weaveguard/test/cluster/internal/build"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// SuperviseCommand is wgcluster's command that a cluster's supervisor runs, with the cluster's
// lock as descriptor LockDescriptor.
const (
	SuperviseCommand = "supervise"
	LockDescriptor   = 3
)

// Cluster is a running cluster. Its methods may be called concurrently.
type Cluster struct {
	tree    build.Tree
	dir     string
	log     io.Writer
	control *http.Client
	client  kubernetes.Interface

	// Of a cluster that this process started:
	owner  io.Closer     // the cluster ends when it is closed
	exited chan struct{} // closed when the supervisor has ended
}

// Build makes what clusters need, and says what it does on log.
func Build(ctx context.Context, log io.Writer) error {
	tree, err := build.Find()
	if err != nil {
		return err
	}
	if err := checkMachine(tree); err != nil {
		return err
	}
	if err := tree.Kubernetes(ctx, log); err != nil {
		return err
	}
	_, err = tree.Images(ctx, log)
	return err
}

// Up starts a cluster and returns once all its nodes are registered. They aren't ready: there is no
// pod network. The cluster lives until Down, and unless it is detached no longer than this process.
func Up(ctx context.Context, options Options) (*Cluster, error) {
	if options.Log == nil {
		options.Log = io.Discard
	}
	if err := Build(ctx, options.Log); err != nil {
		return nil, err
	}
	tree, err := build.Find()
	if err != nil {
		return nil, err
	}
	if err := Sweep(ctx); err != nil {
		return nil, err
	}
	begin := time.Now()
	c, err := supervise(ctx, tree, options)
	if err != nil {
		return nil, err
	}
	if err := c.start(ctx, options); err != nil {
		saved := tree.Path("build", "cluster-logs", filepath.Base(c.dir))
		err = fmt.Errorf("bring the cluster up (logs are in %s): %w", saved, err)
		return nil, errors.Join(err, c.SaveLogs(saved), c.Down(context.WithoutCancel(ctx)))
	}
	c.say("cluster is up, %d nodes are registered, %.1f s", options.Nodes, time.Since(begin).Seconds())
	return c, nil
}

// supervise makes the cluster's directory and starts the supervisor.
func supervise(ctx context.Context, tree build.Tree, options Options) (*Cluster, error) {
	command, err := tree.Command(ctx)
	if err != nil {
		return nil, err
	}
	spec, err := options.spec(tree)
	if err != nil {
		return nil, err
	}
	dir := stateDir(tree, spec.Name)
	if socket := filepath.Join(dir, api.SocketFile); len(socket) > api.MaxSocketPath {
		return nil, fmt.Errorf("the path %s is too long for a socket: clone the work tree to a shorter one", socket)
	}
	lock, err := claim(dir)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the supervisor has it too
	data, err := json.MarshalIndent(spec, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write the cluster's specification: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, api.SpecFile), data, 0o644); err != nil {
		return nil, fmt.Errorf("write the cluster's specification: %w", err)
	}
	c := newCluster(tree, dir)
	c.log = &lineWriter{to: options.Log}
	if err := c.launch(command, lock, options.Detached); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Cluster) launch(command string, lock *os.File, detached bool) error {
	log, err := os.Create(filepath.Join(c.dir, api.SupervisorLog))
	if err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(command, SuperviseCommand, c.dir)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{lock} // LockDescriptor
	// Of a session of its own, it doesn't get the terminal's signals.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !detached {
		if c.owner, err = cmd.StdinPipe(); err != nil {
			return fmt.Errorf("start the supervisor: %w", err)
		}
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the supervisor: %w", err)
	}
	c.exited = make(chan struct{})
	go func() { // ends with the supervisor
		_, _ = cmd.Process.Wait()
		close(c.exited)
	}()
	return nil
}

func newCluster(tree build.Tree, dir string) *Cluster {
	socket := filepath.Join(dir, api.SocketFile)
	return &Cluster{
		tree: tree, dir: dir, log: io.Discard,
		control: &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
			DisableKeepAlives: true,
		}},
	}
}

// start takes a cluster from its supervisor to registered nodes.
func (c *Cluster) start(ctx context.Context, options Options) error {
	if err := c.awaitSupervisor(ctx); err != nil {
		return err
	}
	images, err := c.tree.Images(ctx, c.log)
	if err != nil {
		return err
	}
	for _, file := range images {
		if err := c.LoadImage(ctx, file); err != nil {
			return err
		}
	}
	if _, err := c.request(ctx, http.MethodPost, "/start"); err != nil {
		return err
	}
	if err := c.connect(); err != nil {
		return err
	}
	if filepath.Base(c.dir) == DefaultName && options.Detached {
		if err := c.publishKubeconfig(); err != nil {
			return err
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return c.waitAPI(ctx) })
	for range options.Nodes {
		group.Go(func() error {
			_, err := c.AddNode(ctx)
			return err
		})
	}
	return group.Wait()
}

// connect makes the Kubernetes client.
func (c *Cluster) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig())
	if err != nil {
		return fmt.Errorf("read the cluster's kubeconfig: %w", err)
	}
	config.QPS, config.Burst = 100, 200
	if c.client, err = kubernetes.NewForConfig(config); err != nil {
		return fmt.Errorf("make a client for the API server: %w", err)
	}
	return nil
}

// Open finds a running cluster of this work tree by its name.
func Open(name string) (*Cluster, error) {
	tree, err := build.Find()
	if err != nil {
		return nil, err
	}
	dir := stateDir(tree, name)
	alive, err := isClaimed(dir)
	if err != nil {
		return nil, err
	}
	if !alive {
		return nil, fmt.Errorf("cluster %s isn't running: start it with wgcluster up --name %s", name, name)
	}
	c := newCluster(tree, dir)
	return c, c.connect()
}

// Name of the cluster in this work tree.
func (c *Cluster) Name() string { return filepath.Base(c.dir) }

// Kubeconfig is a file for cluster-admin, from the machine's own network namespace.
func (c *Cluster) Kubeconfig() string { return filepath.Join(c.dir, api.KubeconfigFile) }

// Client is cluster-admin.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// Down ends the cluster and returns once nothing is left of it.
func (c *Cluster) Down(ctx context.Context) error {
	if c.owner != nil {
		_ = c.owner.Close() // however often
	}
	response, err := c.post(ctx, "/down")
	if err == nil {
		response.Body.Close()
	} // else it doesn't listen any more, or not yet: what counts is that it ends
	if c.exited != nil {
		select {
		case <-c.exited:
		case <-ctx.Done():
			return fmt.Errorf("take cluster %s down: its supervisor doesn't end (see %s): %w",
				c.Name(), filepath.Join(c.dir, api.SupervisorLog), ctx.Err())
		}
	}
	return c.remove(ctx)
}

func (c *Cluster) post(ctx context.Context, path string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://supervisor"+path, nil)
	if err != nil {
		return nil, err
	}
	return c.control.Do(request)
}

// say reports progress.
func (c *Cluster) say(format string, args ...any) { fmt.Fprintf(c.log, format+"\n", args...) }

// lineWriter lets concurrent writers take turns.
type lineWriter struct {
	mu sync.Mutex
	to io.Writer
}

func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.to.Write(p)
}

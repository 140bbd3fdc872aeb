package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/ui"
	"github.com/weaveguard/weaveguard/mesh/view"
)

const (
	statusPath    = "/v1/status"
	reconcilePath = "/v1/reconcile"
	rotatePath    = "/v1/rotate"
	topologyPath  = "/v1/topology"
	matrixPath    = "/v1/matrix"
	logLevelPath  = "/v1/log-level"
	forgetPath    = "/v1/forget"
	joinPath      = "/v1/join"

	defaultRetry = 5 * time.Second
	// shutdownTime is how long a request that is under way may take when the agent ends.
	shutdownTime = time.Second
)

// Config is what a Server needs. The functions are called from several goroutines at once.
type Config struct {
	Socket      string // path of the unix socket
	MetricsAddr string // host:port of the metrics, "": none
	HealthAddr  string // host:port of the probes, "": none
	UIAddr      string // host:port of the web page, "": none
	// Retry is how long to wait before an address that is taken is tried again; 0: 5 s.
	Retry time.Duration

	Status func() view.Status // what the agent sees now
	// Ready reports whether the node carries pod traffic, and what is wrong with it, without asking anybody else: a probe waits for
	// nothing that hangs.
	Ready     func() (bool, []view.Problem)
	Topology  func() view.Topology
	Matrix    func() view.Matrix // what is known of it now; asking makes the others be asked
	Reconcile func()             // makes the agent's loop run soon; returns at once
	Alive     func() error       // why the agent's loop doesn't run any more; nil while it does
	// Rotate asks for a rotation, and returns when the request is on disk; an error says why it is refused. With force
	// the rotation under way ends without waiting for its peers.
	Rotate func(force bool) (view.RotateAnswer, error)
	// Forget takes a node out of the data plane and forgets its identity, and returns when that is done and on disk; Join has
	// further hosts looked at, and returns when they are on disk. An error says why it is refused.
	Forget func(ctx context.Context, node string, force bool) (view.ForgetAnswer, error)
	Join   func(ctx context.Context, hosts []string) (view.JoinAnswer, error)
	Log    *slog.Logger
	// LogLevel is how much Log takes; it is changed on request. nil: nobody may.
	LogLevel *slog.LevelVar

	// Timings are served among the metrics; nil: with nothing in them.
	Timings *Timings
	// Kinds and Reasons are the words of the counters by kind, and of the refused, that metrics have from the beginning on.
	Kinds, Reasons []string
}

// Server serves the status API, the metrics and the probes.
type Server struct {
	cfg   Config
	ports []*port
}

// New returns a server that isn't running yet.
func New(cfg Config) *Server {
	if cfg.Retry == 0 {
		cfg.Retry = defaultRetry
	}
	if cfg.Timings == nil {
		cfg.Timings = NewTimings()
	}
	s := &Server{cfg: cfg}
	if cfg.MetricsAddr != "" {
		s.ports = append(s.ports, &port{
			use: "the metrics", addr: cfg.MetricsAddr, handler: s.metricsRoutes(), retry: cfg.Retry, log: cfg.Log,
		})
	}
	if cfg.HealthAddr != "" {
		s.ports = append(s.ports, &port{
			use: "the probes", addr: cfg.HealthAddr, handler: s.healthRoutes(), retry: cfg.Retry, log: cfg.Log,
		})
	}
	if cfg.UIAddr != "" {
		s.ports = append(s.ports, &port{
			use: "the web page", addr: cfg.UIAddr, handler: ui.New(s.sources(), cfg.UIAddr), retry: cfg.Retry, log: cfg.Log,
		})
	}
	return s
}

// Run serves until ctx ends, and then returns nil. It fails at once when the socket can't be had: see
// SocketInUseError. A TCP address that can't be had is tried again until it can, and meanwhile one of Problems.
func (s *Server) Run(ctx context.Context) error {
	listener, unlock, err := listenUnix(ctx, s.cfg.Socket)
	if err != nil {
		return fmt.Errorf("opening the status API: %w", err)
	}
	defer unlock()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		if err := Serve(ctx, listener, s.apiRoutes(), s.cfg.Log); err != nil {
			return fmt.Errorf("serving the status API on %s: %w", s.cfg.Socket, err)
		}
		return nil
	})
	for _, p := range s.ports {
		group.Go(func() error {
			p.run(ctx)
			return nil
		})
	}
	return group.Wait()
}

// Problems returns what an operator should know about the server: the addresses that it can't have.
func (s *Server) Problems() []view.Problem {
	var problems []view.Problem
	for _, p := range s.ports {
		if problem := p.problem.Load(); problem != nil {
			problems = append(problems, *problem)
		}
	}
	return problems
}

func (s *Server) apiRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+statusPath, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, s.status())
	})
	mux.HandleFunc("GET "+topologyPath, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, s.cfg.Topology())
	})
	mux.HandleFunc("GET "+matrixPath, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, s.cfg.Matrix())
	})
	mux.HandleFunc("POST "+reconcilePath, func(w http.ResponseWriter, _ *http.Request) {
		s.cfg.Reconcile()
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("POST "+rotatePath, s.rotate)
	mux.HandleFunc("GET "+logLevelPath, s.getLogLevel)
	mux.HandleFunc("POST "+logLevelPath, s.setLogLevel)
	mux.HandleFunc("POST "+forgetPath, s.forget)
	mux.HandleFunc("POST "+joinPath, s.join)
	return mux
}

func (s *Server) healthRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := s.cfg.Alive(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		write(w, []byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if ready, problems := s.cfg.Ready(); !ready {
			http.Error(w, whyNotReady(problems), http.StatusServiceUnavailable)
			return
		}
		write(w, []byte("ok\n"))
	})
	return mux
}

func whyNotReady(problems []view.Problem) string {
	why := "this node can't carry pod traffic yet"
	for _, problem := range problems {
		why += "\n" + problem.String()
	}
	return why
}

// write drops the error: it is the requester's, who went away.
func write(w http.ResponseWriter, body []byte) { _, _ = w.Write(body) }

func writeJSON(w http.ResponseWriter, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		http.Error(w, "encoding the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	write(w, append(body, '\n'))
}

// sources are what the web page shows.
func (s *Server) sources() ui.Sources {
	return ui.Sources{
		Status:   func(context.Context) (view.Status, error) { return s.status(), nil },
		Topology: func(context.Context) (view.Topology, error) { return s.cfg.Topology(), nil },
		Matrix:   func(context.Context) (view.Matrix, error) { return s.cfg.Matrix(), nil },
	}
}

func (s *Server) status() view.Status { return complete(s.cfg.Status()) }

// complete returns the status with empty lists where it has none: null isn't in the API's contract. An agent that is
// starting doesn't rotate.
func complete(status view.Status) view.Status {
	status.Endpoints = list(status.Endpoints)
	status.PodCIDRs = list(status.PodCIDRs)
	status.PodRanges = list(status.PodRanges)
	status.Generations = list(status.Generations)
	status.Rotation.Phase = cmp.Or(status.Rotation.Phase, string(keys.Idle))
	status.Rotation.Waiting = list(status.Rotation.Waiting)
	status.Devices = list(status.Devices)
	status.Problems = list(status.Problems)
	peers := make([]view.PeerStatus, 0, len(status.Peers))
	for _, peer := range status.Peers {
		peer.PodCIDRs = list(peer.PodCIDRs)
		peers = append(peers, peer)
	}
	status.Peers = peers
	if status.Counters.Refused == nil {
		status.Counters.Refused = map[string]uint64{}
	}
	return status
}

func list[T any](values []T) []T {
	if values == nil {
		return []T{}
	}
	return values
}

// Serve answers requests until ctx ends, and then returns nil: what is under way has a second more.
func Serve(ctx context.Context, listener net.Listener, handler http.Handler, log *slog.Logger) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    1 << 16,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close() // cuts what didn't end in time
		}
	})
	err := server.Serve(listener)
	if stop() { // ctx goes on: Serve failed by itself
		return errors.Join(err, server.Close())
	}
	<-stopped
	return nil
}

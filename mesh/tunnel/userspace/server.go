package userspace

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/weaveguard/weaveguard/mesh/contract"
)

const (
	// DefaultUAPIDir is where wg(8) and wgctrl look for devices in userspace.
	DefaultUAPIDir = "/var/run/wireguard"

	// minMTU and maxMTU bound a device's MTU in bytes: the datagram that every host accepts (RFC 791, section 3.1),
	// and what is left of the largest one after the headers that WireGuard adds.
	minMTU = 576
	maxMTU = 65535 - 80

	maxRequest      = 4 << 10 // bytes
	requestTimeout  = 10 * time.Second
	shutdownTimeout = 2 * time.Second
)

// Config is what the daemon needs.
type Config struct {
	Socket  string // the unix socket at which the agent asks
	UAPIDir string // the directory of the devices' own sockets; "": DefaultUAPIDir
	Version string // what it says of itself
	Log     *slog.Logger
}

// Serve is the daemon: it makes and removes tunnel devices as the agent asks, until ctx ends. Then its devices end
// too, and with them their sessions. It returns an error if it couldn't start, or lost its socket.
func Serve(ctx context.Context, config Config) error {
	config.UAPIDir = cmp.Or(config.UAPIDir, DefaultUAPIDir)
	if err := os.MkdirAll(filepath.Dir(config.Socket), 0o755); err != nil {
		return fmt.Errorf("making the directory of the daemon's socket: %w", err)
	}
	listener, err := listen(ctx, config.Socket)
	if errors.Is(err, errSocketInUse) {
		return fmt.Errorf("is another userspace WireGuard daemon running on this node? %w", err)
	}
	if err != nil {
		return fmt.Errorf("serving the agent at %s: %w", config.Socket, err)
	}
	s := &server{config: config, devices: map[string]*wireguard{}}
	s.removeStaleSockets()
	defer s.closeAll()

	web := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		ErrorLog:          slog.NewLogLogger(config.Log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- web.Serve(listener) }() // ends with Shutdown
	config.Log.Info("userspace WireGuard daemon ready", "socket", config.Socket, "version", config.Version)
	select {
	case err := <-failed:
		return fmt.Errorf("serving the agent at %s: %w", config.Socket, err)
	case <-ctx.Done():
	}
	config.Log.Info("userspace WireGuard daemon ends, and its devices with it", "devices", s.names())
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := web.Shutdown(grace); err != nil {
		return errors.Join(fmt.Errorf("ending the daemon: %w", err), web.Close())
	}
	<-failed
	return nil
}

// server holds the devices.
type server struct {
	config Config

	mu      sync.Mutex
	devices map[string]*wireguard
	watches sync.WaitGroup
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, http.StatusOK, versionReply{Version: s.config.Version})
	})
	mux.HandleFunc("GET /v1/devices", func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, http.StatusOK, devicesReply{Devices: s.names()})
	})
	mux.HandleFunc("PUT /v1/devices/{name}", s.handleMake)
	mux.HandleFunc("DELETE /v1/devices/{name}", s.handleRemove)
	return mux
}

func (s *server) handleMake(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	var request makeRequest
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&request)
	switch {
	case err != nil:
		s.refuse(w, http.StatusBadRequest, fmt.Errorf("the request isn't as it should be: %w", err))
	case !contract.IsDeviceName(name):
		s.refuse(w, http.StatusBadRequest, errDeviceName(name))
	case request.MTU < minMTU || request.MTU > maxMTU:
		s.refuse(w, http.StatusBadRequest, fmt.Errorf("the MTU of %s must be from %d to %d bytes, not %d", name, minMTU, maxMTU,
			request.MTU))
	default:
		if err := s.make(r.Context(), name, request.MTU); err != nil {
			s.refuse(w, http.StatusInternalServerError, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *server) handleRemove(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name")
	if !contract.IsDeviceName(name) {
		s.refuse(w, http.StatusBadRequest, errDeviceName(name))
		return
	}
	s.remove(name)
	w.WriteHeader(http.StatusNoContent)
}

// make makes a device, or sees that the one that is there can be reached.
func (s *server) make(ctx context.Context, name string, mtu int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.devices[name]; w != nil {
		return w.repair(ctx)
	}
	w, err := start(ctx, name, mtu, s.config.UAPIDir, s.config.Log)
	if err != nil {
		return err
	}
	s.devices[name] = w
	s.config.Log.Info("tunnel device made", "device", name, "mtu", mtu)
	s.watches.Add(1)
	go func() { // ends with the device
		defer s.watches.Done()
		<-w.device.Wait()
		s.forget(w)
	}()
	return nil
}

func (s *server) remove(name string) {
	s.mu.Lock() // until it is closed: before that its name isn't free
	defer s.mu.Unlock()
	if w := s.devices[name]; w != nil {
		delete(s.devices, name)
		w.close()
		// Copies of its key may lie around, from configuring and reading it; what is pooled goes with the second collection.
		runtime.GC()
		debug.FreeOSMemory()
		s.config.Log.Info("tunnel device removed", "device", name)
	}
}

// forget drops a device that ended by itself: somebody deleted its interface.
func (s *server) forget(w *wireguard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.devices[w.name] != w {
		return
	}
	delete(s.devices, w.name)
	w.close()
	s.config.Log.Warn("the interface of a tunnel device was removed by somebody else", "device", w.name)
}

func (s *server) closeAll() {
	for _, name := range s.names() {
		s.remove(name)
	}
	s.watches.Wait()
}

func (s *server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.devices))
}

// removeStaleSockets removes what an earlier daemon left behind when it was killed: wg(8) stumbles over it.
func (s *server) removeStaleSockets() {
	for i := range contract.MaxDevices {
		path := filepath.Join(s.config.UAPIDir, contract.DeviceName(i)+".sock")
		if err := removeStale(path); err != nil {
			s.config.Log.Warn("a tunnel device's socket is there and stays", "error", err)
		}
	}
}

func (s *server) answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		s.config.Log.Debug("the agent hung up", "error", err)
	}
}

func (s *server) refuse(w http.ResponseWriter, status int, err error) {
	s.answer(w, status, errorReply{Error: err.Error()})
}

func errDeviceName(name string) error {
	return fmt.Errorf("%q isn't the name of a tunnel device: those are %s to %s", name, contract.DeviceName(0),
		contract.DeviceName(contract.MaxDevices-1))
}

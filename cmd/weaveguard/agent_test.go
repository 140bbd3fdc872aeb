package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/weaveguard/weaveguard/keys"
	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// fakeAgent says what is in its statuses: always the first one, and from a request to rotate on, one after the other,
// each time that it is asked. It stays at the last one.
type fakeAgent struct {
	mu       sync.Mutex
	statuses []view.Status
	topology view.Topology
	matrix   view.Matrix
	looks    int // at the matrix
	rotates  bool
	forgot   bool
	joined   []string
}

func (f *fakeAgent) status() view.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rotates && len(f.statuses) > 1 {
		f.statuses = f.statuses[1:]
	}
	return f.statuses[0]
}

// gathered is the matrix, from the third look on: before that the agent has heard of no other node what it measured.
func (f *fakeAgent) gathered() view.Matrix {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.looks++; f.looks > 2 {
		return f.matrix
	}
	m := f.matrix
	m.Rows = slices.Clone(m.Rows)
	for i, row := range m.Rows {
		if row.Node != m.Node {
			m.Rows[i] = view.MatrixRow{Node: row.Node, Cells: []view.MatrixCell{}}
		}
	}
	return m
}

// rotate answers as the real one does, by what the status says.
func (f *fakeAgent) rotate(force bool) (view.RotateAnswer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.statuses[0]
	if s.Rotation.Phase == string(keys.Failed) {
		return view.RotateAnswer{}, errors.New("the key isn't changed, and stays as it is: " + s.Rotation.Reason)
	}
	newest := s.Generations[len(s.Generations)-1].Number
	rotating := len(s.Generations) > 1
	if force && !rotating {
		return view.RotateAnswer{}, errors.New("no rotation is under way that waits for peers, so there is nothing to force")
	}
	f.rotates = true
	switch {
	case force:
		return view.RotateAnswer{State: view.RotateForced, Generation: newest}, nil
	case s.Rotation.Queued:
		return view.RotateAnswer{State: view.RotateAlreadyQueued, Generation: newest + 1}, nil
	case rotating:
		return view.RotateAnswer{State: view.RotateQueued, Generation: newest + 1}, nil
	}
	return view.RotateAnswer{State: view.RotateStarted, Generation: newest + 1}, nil
}

// forget knows the node "host-3" alone, and that its agent runs until it is forced.
func (f *fakeAgent) forget(_ context.Context, node string, force bool) (view.ForgetAnswer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answer := view.ForgetAnswer{State: view.ForgottenBefore, Node: node, Identity: f.statuses[0].Identity}
	switch {
	case node != "host-3":
		return view.ForgetAnswer{}, view.UnknownNode(node, []string{"host-3"})
	case f.forgot:
		return answer, nil
	case !force:
		return view.ForgetAnswer{}, view.NodeRuns(node, "192.0.2.3")
	}
	f.forgot, answer.State, answer.PodCIDRs = true, view.ForgotNode, f.statuses[0].PodCIDRs
	return answer, nil
}

func (f *fakeAgent) join(_ context.Context, hosts []string) (view.JoinAnswer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(hosts, "nobody") {
		return view.JoinAnswer{}, view.UnknownHost("nobody", errors.New("no such host"))
	}
	added := slices.DeleteFunc(hosts, func(host string) bool { return slices.Contains(f.joined, host) })
	f.joined = append(f.joined, added...)
	return view.JoinAnswer{Added: added, Hosts: f.joined}, nil
}

// startAgent serves the statuses in JSON files on $WEAVEGUARD_SOCKET, as it is then, as an agent does: agent FILE... The
// statuses after the first are for a rotation: see fakeAgent. One of them, named topology.json, is its topology, and one named matrix.json its
// matrix.
func startAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: agent FILE...")
	}
	f := &fakeAgent{}
	for _, file := range args {
		if file == "topology.json" {
			if err := json.Unmarshal([]byte(ts.ReadFile(file)), &f.topology); err != nil {
				ts.Fatalf("%s: %v", file, err)
			}
			continue
		}
		if file == "matrix.json" {
			if err := json.Unmarshal([]byte(ts.ReadFile(file)), &f.matrix); err != nil {
				ts.Fatalf("%s: %v", file, err)
			}
			continue
		}
		var status view.Status
		if err := json.Unmarshal([]byte(ts.ReadFile(file)), &status); err != nil {
			ts.Fatalf("%s: %v", file, err)
		}
		f.statuses = append(f.statuses, status)
	}
	socket := ts.MkAbs(ts.Getenv(socketEnv))
	server := api.New(api.Config{
		Socket: socket, Status: f.status, Topology: func() view.Topology { return f.topology }, Matrix: f.gathered, Rotate: f.rotate, Forget: f.forget, Join: f.join,
		Log: slog.New(slog.DiscardHandler), LogLevel: &slog.LevelVar{},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	ts.Defer(func() {
		cancel()
		<-ended
	})
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		_, err := api.Client{Socket: socket}.Status(ctx)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("the agent doesn't answer: %v", err)
		}
	}
}

// startOldAgent serves a JSON file on $WEAVEGUARD_SOCKET as it is, and knows of no other request: old FILE.
func startOldAgent(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: old FILE")
	}
	status := ts.ReadFile(args[0])
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, status) })
	listener, err := net.Listen("unix", ts.MkAbs(ts.Getenv(socketEnv)))
	ts.Check(err)
	server := &http.Server{Handler: mux}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	ts.Defer(func() {
		_ = server.Close()
		<-ended
	})
}

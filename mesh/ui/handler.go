package ui

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"

	"github.com/weaveguard/weaveguard/mesh/view"
)

//go:embed assets
var embedded embed.FS

// assets are the files of the page, by their paths below its address.
func assets() fs.FS {
	files, err := fs.Sub(embedded, "assets")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return files
}

// Sources are where the page's data comes from. They are called at each request, from several goroutines at once. Their errors
// are shown to the reader as they are.
type Sources struct {
	Status   func(context.Context) (view.Status, error)
	Topology func(context.Context) (view.Topology, error)
	Matrix   func(context.Context) (view.Matrix, error) // nil: there is none
}

// contentPolicy keeps the page to its own files: no script, style or request that isn't the server's, and no other page around it.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
	"base-uri 'none'; frame-ancestors 'none'; form-action 'none'"

// New returns the handler for a server that listens at listen, a host:port: by that host, too, it answers.
func New(s Sources, listen string) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /", http.FileServerFS(assets()))
	turns := make(chan struct{}, atOnce)
	mux.HandleFunc("GET /v1/status", bounded(turns, answer(s.Status)))
	mux.HandleFunc("GET /v1/topology", bounded(turns, answer(s.Topology)))
	if s.Matrix != nil {
		mux.HandleFunc("GET /v1/matrix", bounded(turns, answer(s.Matrix)))
	}
	return secured(onlyFor(listen, mux))
}

// atOnce is how many answers are under way at a time, those among them that nobody takes: each asks WireGuard, and has all nodes in it,
// and whoever has an account on the host can ask. A page asks for three.
const atOnce = 6

// bounded refuses what comes while all turns are taken.
func bounded(turns chan struct{}, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
			next(w, r)
		default:
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many ask at once: try again in a second", http.StatusServiceUnavailable)
		}
	}
}

// answer serves what a source says as JSON.
func answer[T any](source func(context.Context) (T, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := source(r.Context())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		body, err := json.Marshal(value)
		if err != nil {
			http.Error(w, fmt.Sprintf("encoding the answer: %v", err), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(append(body, '\n')) // an error is the requester's, who went away
	}
}

// secured adds to all answers what tells browsers to be careful with them. Nothing is kept: the data is of now, and the files are
// of the agent's version.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", contentPolicy)
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

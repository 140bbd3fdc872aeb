package supervisor

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"

	"github.com/weaveguard/weaveguard/test/cluster/internal/api"
)

// server answers clients on the unix socket. Requests that take time answer with a stream of
// events, one JSON object a line.
func (s *Supervisor) server() *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(s.snapshot())
	})
	mux.HandleFunc("POST /start", stream(func(r *http.Request, say func(string)) (*api.Host, error) {
		return nil, s.start(r.Context(), say)
	}))
	mux.HandleFunc("POST /nodes", stream(func(r *http.Request, say func(string)) (*api.Host, error) {
		return s.addNode(r.Context())
	}))
	onNode := func(f func(context.Context, api.Host) error) http.HandlerFunc {
		return stream(func(r *http.Request, _ func(string)) (*api.Host, error) {
			node, err := s.node(r.PathValue("node"))
			if err != nil {
				return nil, err
			}
			if err := f(r.Context(), node); err != nil {
				return nil, err
			}
			node, _ = s.host(node.Name)
			return &node, nil
		})
	}
	mux.HandleFunc("POST /nodes/{node}/start", onNode(s.bootNode))
	mux.HandleFunc("POST /nodes/{node}/stop", onNode(func(_ context.Context, node api.Host) error { return s.halt(node) }))
	mux.HandleFunc("DELETE /nodes/{node}", onNode(func(_ context.Context, node api.Host) error { return s.removeNode(node) }))
	mux.HandleFunc("POST /images", stream(func(r *http.Request, _ func(string)) (*api.Host, error) {
		return nil, s.loadImage(r.Context(), r.URL.Query().Get("file"))
	}))
	mux.HandleFunc("POST /down", func(http.ResponseWriter, *http.Request) {
		select {
		case s.quit <- struct{}{}:
		default:
		}
	})
	return &http.Server{Handler: mux}
}

func stream(f func(*http.Request, func(string)) (*api.Host, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var mu sync.Mutex
		encoder, controller := json.NewEncoder(w), http.NewResponseController(w)
		send := func(e api.Event) {
			mu.Lock()
			defer mu.Unlock()
			_ = encoder.Encode(e)
			_ = controller.Flush()
		}
		host, err := f(r, func(message string) { send(api.Event{Message: message}) })
		if err != nil {
			send(api.Event{Error: err.Error()})
			return
		}
		send(api.Event{Done: true, Host: host})
	}
}

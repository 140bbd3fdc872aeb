package api_test

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/api"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// rotator is what the server asks: it answers as it is told, and notes what it was asked.
type rotator struct {
	answer view.RotateAnswer
	err    error

	mu    sync.Mutex
	asked []bool
}

func (r *rotator) rotate(force bool) (view.RotateAnswer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, force)
	return r.answer, r.err
}

func (r *rotator) requests() []bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.asked)
}

func TestRotate(t *testing.T) {
	r := &rotator{answer: view.RotateAnswer{State: view.RotateQueued, Generation: 7}}
	cfg := config(t, sample())
	cfg.Rotate = r.rotate
	start(t, cfg)
	for _, force := range []bool{false, true} {
		answer, err := api.Client{Socket: cfg.Socket}.Rotate(t.Context(), force)
		if err != nil || answer != r.answer {
			t.Errorf("Rotate(%v) = %v, %v; want %v", force, answer, err, r.answer)
		}
	}
	if got := r.requests(); !slices.Equal(got, []bool{false, true}) {
		t.Errorf("the agent was asked with force %v, want false and then true", got)
	}
}

// What the agent says is for the operator as it is: the command is fine, and so is its version.
func TestRotateRefused(t *testing.T) {
	const why = "no rotation is under way that waits for peers, so there is nothing to force"
	r := &rotator{err: errors.New(why)}
	cfg := config(t, sample())
	cfg.Rotate = r.rotate
	start(t, cfg)
	answer, err := api.Client{Socket: cfg.Socket}.Rotate(t.Context(), true)
	var agentErr *api.AgentError
	if !errors.As(err, &agentErr) || agentErr.Message != why || agentErr.Remedy != "" || answer != (view.RotateAnswer{}) {
		t.Errorf("Rotate = %v, %#v; want an AgentError that says %q, and nothing else", answer, err, why)
	}
}

// A refusal without a reason is still one.
func TestRotateRefusedWithoutWords(t *testing.T) {
	cfg := config(t, sample())
	cfg.Rotate = (&rotator{err: errors.New("")}).rotate
	start(t, cfg)
	_, err := api.Client{Socket: cfg.Socket}.Rotate(t.Context(), false)
	if err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("Rotate: %v, want the 409", err)
	}
}

// What the server finds too long fits one write all the same: it closes the connection then, and its answer would be
// lost to a client that still writes.
func TestRotateBodies(t *testing.T) {
	r := &rotator{answer: view.RotateAnswer{State: view.RotateStarted, Generation: 1}}
	cfg := config(t, sample())
	cfg.Rotate = r.rotate
	start(t, cfg)
	client := httpClient(t, cfg.Socket)
	for _, tt := range []struct {
		name, method, body string
		code               int
		want               string // in the answer
	}{
		{"a request", "POST", `{"force":true}`, 200, `{"state":"started","generation":1}` + "\n"},
		{"spaces around it", "POST", " \n{ \"force\" : true }\n ", 200, `"started"`},
		{"no wish", "POST", `{}`, 200, `"started"`},
		{"nothing", "POST", ``, 400, "it is empty"},
		{"null", "POST", `null`, 400, "it is null"},
		{"another type", "POST", `{"force":"yes"}`, 400, "cannot unmarshal string"},
		{"a number for a bool", "POST", `{"force":1}`, 400, "cannot unmarshal number"},
		{"a list", "POST", `[{"force":true}]`, 400, "cannot unmarshal array"},
		{"an unknown field", "POST", `{"force":true,"only":["node-b"]}`, 400, `unknown field "only"`},
		{"two requests", "POST", `{"force":false}{"force":true}`, 400, "something follows the request"},
		{"a brace too many", "POST", `{"force":true}}`, 400, "after the request"},
		{"half a request", "POST", `{"force":tr`, 400, "unexpected EOF"},
		{"a form", "POST", `force=true`, 400, "invalid character"},
		{"bytes", "POST", "\x00\xff\xfe", 400, "invalid character"},
		{"a deep one", "POST", strings.Repeat("[", 1000), 400, "isn't a request to rotate"},
		{"a long one", "POST", `{"force":true` + strings.Repeat(" ", 2000) + `}`, 400, "too large"},
		{"a long tail", "POST", `{"force":true}` + strings.Repeat(" ", 2000), 400, "too large"},
		{"a long one of nonsense", "POST", strings.Repeat("x", 1<<16), 400, "isn't a request to rotate"},
		{"a link that was followed", "GET", ``, 405, "Method Not Allowed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(r.requests())
			request, err := http.NewRequestWithContext(t.Context(), tt.method, "http://agent/v1/rotate", strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			response, err := client.Do(request)
			if err != nil {
				t.Fatal(err)
			}
			defer response.Body.Close()
			got, err := io.ReadAll(response.Body)
			if err != nil || response.StatusCode != tt.code || !strings.Contains(string(got), tt.want) {
				t.Errorf("%d %q, %v; want %d with %q", response.StatusCode, got, err, tt.code, tt.want)
			}
			asked := len(r.requests()) - before
			if want := map[int]int{200: 1}[tt.code]; asked != want {
				t.Errorf("the agent was asked %d times, want %d", asked, want)
			}
		})
	}
}

package ui_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/ui"
	"github.com/weaveguard/weaveguard/mesh/view"
)

// ask asks a handler by a name of it.
func ask(t *testing.T, handler http.Handler, method, host, path string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(method, path, nil)
	r.Host = host
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	response := w.Result()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, string(body)
}

// nodeOf is whose data an answer is.
func nodeOf[T any](get func(T) string) func(string) (string, error) {
	return func(body string) (string, error) {
		var value T
		err := json.Unmarshal([]byte(body), &value)
		return get(value), err
	}
}

func TestData(t *testing.T) {
	t.Parallel()
	handler := makeMesh(3, 2).handler()
	for path, node := range map[string]func(string) (string, error){
		"/v1/status":   nodeOf(func(v view.Status) string { return v.Node }),
		"/v1/topology": nodeOf(func(v view.Topology) string { return v.Node }),
		"/v1/matrix":   nodeOf(func(v view.Matrix) string { return v.Node }),
	} {
		r, body := ask(t, handler, http.MethodGet, "127.0.0.1:6786", path)
		got, err := node(body)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "application/json" || err != nil || got != name(1) {
			t.Errorf("%s: %s, %s, of %q, %v", path, r.Status, r.Header.Get("Content-Type"), got, err)
		}
	}
}

// What can't be had is said in words; that there is no matrix is no failure.
func TestNoData(t *testing.T) {
	t.Parallel()
	sources := makeMesh(3, 2).sources()
	sources.Status = func(context.Context) (view.Status, error) { return view.Status{}, errors.New("no agent runs here") }
	sources.Matrix = nil
	handler := ui.New(sources, "127.0.0.1:0")
	if r, body := ask(t, handler, http.MethodGet, "localhost", "/v1/status"); r.StatusCode != http.StatusBadGateway || body != "no agent runs here\n" {
		t.Errorf("the status: %s, %q", r.Status, body)
	}
	if r, _ := ask(t, handler, http.MethodGet, "localhost", "/v1/matrix"); r.StatusCode != http.StatusNotFound {
		t.Errorf("the matrix: %s", r.Status)
	}
}

func TestReadOnly(t *testing.T) {
	t.Parallel()
	handler := makeMesh(1, 0).handler()
	for _, path := range []string{"/", "/main.js", "/v1/status", "/v1/topology", "/v1/matrix", "/v1/rotate"} {
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
			if r, _ := ask(t, handler, method, "localhost", path); r.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("%s %s: %s", method, path, r.Status)
			}
		}
	}
}

func TestHosts(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		listen, host string
		want         int
	}{
		{"127.0.0.1:6786", "127.0.0.1:6786", http.StatusOK},
		{"127.0.0.1:6786", "127.0.0.1:40123", http.StatusOK}, // as behind kubectl port-forward
		{"127.0.0.1:6786", "127.0.0.1", http.StatusOK},
		{"127.0.0.1:6786", "localhost:6786", http.StatusOK},
		{"127.0.0.1:6786", "LOCALHOST", http.StatusOK},
		{"127.0.0.1:6786", "[::1]:6786", http.StatusOK},
		{"127.0.0.1:6786", "[::1]", http.StatusOK},
		{":6786", "192.0.2.1:6786", http.StatusOK},
		{"worker-1.example:6786", "Worker-1.example:6786", http.StatusOK},
		{"worker-1.example:6786", "attacker.example:6786", http.StatusForbidden},
		{"127.0.0.1:6786", "attacker.example", http.StatusForbidden},
		{"127.0.0.1:6786", "127.0.0.1.attacker.example:6786", http.StatusForbidden},
		{"127.0.0.1:6786", "localhost.attacker.example", http.StatusForbidden},
		{"127.0.0.1:6786", "", http.StatusForbidden},
		{":6786", "", http.StatusForbidden},
		{"", "", http.StatusForbidden},
	} {
		handler := ui.New(makeMesh(1, 0).sources(), c.listen)
		for _, path := range []string{"/", "/v1/status"} {
			r, body := ask(t, handler, http.MethodGet, c.host, path)
			if r.StatusCode != c.want {
				t.Errorf("listening on %q, asked as %q: %s: %s, want %d", c.listen, c.host, path, r.Status, c.want)
			}
			if c.want == http.StatusForbidden && !strings.Contains(body, "ask for it by an IP address or as localhost") {
				t.Errorf("asked as %q it doesn't say what to do: %q", c.host, body)
			}
		}
	}
}

// Each answer, also a refusal, tells browsers to be careful with it.
func TestHeaders(t *testing.T) {
	t.Parallel()
	handler := makeMesh(1, 0).handler()
	for _, c := range []struct{ host, path string }{
		{"localhost", "/"}, {"localhost", "/main.js"}, {"localhost", "/v1/status"}, {"localhost", "/nothing"}, {"attacker.example", "/"},
	} {
		r, _ := ask(t, handler, http.MethodGet, c.host, c.path)
		for header, want := range map[string]string{
			"Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; " +
				"base-uri 'none'; frame-ancestors 'none'; form-action 'none'",
			"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store",
			"Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
		} {
			if r.StatusCode == http.StatusNotFound && header == "Cache-Control" {
				continue // the standard library takes it away
			}
			if got := r.Header.Get(header); got != want {
				t.Errorf("%s of %s: %s is %q, want %q", c.path, c.host, header, got, want)
			}
		}
		if r.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s of %s: other pages may read it", c.path, c.host)
		}
	}
}

// The page is made of its own files alone, all of them are served, and none has a way to make markup of data.
func TestAssets(t *testing.T) {
	t.Parallel()
	outside := regexp.MustCompile(`(?i)(https?:)?//[a-z0-9-]+\.[a-z]|url\(|@import|eval\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|srcdoc|DOMParser`)
	handler := makeMesh(1, 0).handler()
	files := os.DirFS("assets")
	names, err := fs.Glob(files, "*")
	if err != nil || len(names) < 5 {
		t.Fatalf("the files are %v, %v", names, err)
	}
	for _, file := range names {
		text, err := fs.ReadFile(files, file)
		if err != nil {
			t.Fatal(err)
		}
		path, kind := "/"+file, map[string]string{"html": "text/html", "css": "text/css", "js": "javascript", "svg": "image/svg+xml"}[file[strings.LastIndex(file, ".")+1:]]
		if file == "index.html" {
			path = "/"
		}
		r, served := ask(t, handler, http.MethodGet, "localhost", path)
		if r.StatusCode != http.StatusOK || served != string(text) || !strings.Contains(r.Header.Get("Content-Type"), kind) {
			t.Errorf("%s: %s, %s, %d bytes of %d", path, r.Status, r.Header.Get("Content-Type"), len(served), len(text))
		}
		without := strings.ReplaceAll(string(text), "http://www.w3.org/2000/svg", "") // the name of a namespace, which nothing is fetched from
		if found := outside.FindString(without); found != "" {
			t.Errorf("%s has %q", file, found)
		}
	}
}

// However many ask, the agent works for a few at a time; the files of the page are always there.
func TestBounded(t *testing.T) {
	t.Parallel()
	held, asked := make(chan struct{}), make(chan struct{}, 100)
	sources := makeMesh(1, 0).sources()
	sources.Status = func(context.Context) (view.Status, error) {
		asked <- struct{}{}
		<-held
		return view.Status{}, nil
	}
	handler := ui.New(sources, "127.0.0.1:6786")
	codes := make(chan int, 100)
	for range cap(codes) {
		go func() {
			r, _ := ask(t, handler, http.MethodGet, "localhost", "/v1/status")
			codes <- r.StatusCode
		}()
	}
	refused := 0
	for range cap(codes) - 6 {
		if <-codes == http.StatusServiceUnavailable {
			refused++
		}
	}
	if refused != cap(codes)-6 || len(asked) > 6 {
		t.Errorf("%d of %d at once were refused, the agent was asked by %d", refused, cap(codes), len(asked))
	}
	if r, _ := ask(t, handler, http.MethodGet, "localhost", "/main.js"); r.StatusCode != http.StatusOK {
		t.Errorf("a file meanwhile: %s", r.Status)
	}
	close(held)
	for range 6 {
		if code := <-codes; code != http.StatusOK {
			t.Errorf("one that was let in gets %d", code)
		}
	}
	if r, _ := ask(t, handler, http.MethodGet, "localhost", "/v1/topology"); r.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %s", r.Status)
	}
}

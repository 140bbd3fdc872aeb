package api_test

import (
	"bytes"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/mesh/api"
)

// The level changes at once, and the log tells of it whichever of the two it has; what is no level changes nothing.
func TestLogLevel(t *testing.T) {
	t.Parallel()
	var text bytes.Buffer
	cfg := config(t, sample())
	cfg.LogLevel = &slog.LevelVar{}
	cfg.LogLevel.Set(slog.LevelError)
	cfg.Log = slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: cfg.LogLevel}))
	_, stop := start(t, cfg)
	client := api.Client{Socket: cfg.Socket}
	for _, want := range []slog.Level{slog.LevelDebug, slog.LevelDebug, slog.LevelError} {
		if err := client.SetLogLevel(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		if got, err := client.LogLevel(t.Context()); err != nil || got != want || cfg.LogLevel.Level() != want {
			t.Errorf("the level is %s, %v, want %s", got, err, want)
		}
	}
	raw := httpClient(t, cfg.Socket)
	for _, body := range []string{"", "{}x", `{"level":"LOUD"}`, `{"loudness":"INFO"}`} {
		response, err := raw.Post("http://agent/v1/log-level", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != http.StatusBadRequest || cfg.LogLevel.Level() != slog.LevelError {
			t.Errorf("%q: %s, and the level is %s", body, response.Status, cfg.LogLevel.Level())
		}
	}
	stop()
	if n := strings.Count(text.String(), "the log level is changed"); n != 2 {
		t.Errorf("the log tells %d times of 2 changes:\n%s", n, text.String())
	}
}

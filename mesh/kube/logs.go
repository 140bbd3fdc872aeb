package kube

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
)

const (
	// repeatEvery is how often the same message of client-go is logged at most, and maxRepeats how many different
	// ones are told apart.
	repeatEvery = time.Minute
	maxRepeats  = 256
)

// RouteLogs sends to log what client-go logs with its process-wide logger: errors as warnings, each message at most
// once a minute, and the rest at debug level. Call it once, in main, before any client is used.
func RouteLogs(log *slog.Logger) { klog.SetSlogLogger(slog.New(newQuietHandler(log))) }

// withLogger does for client-go's contextual logging what RouteLogs does for the rest.
func withLogger(ctx context.Context, log *slog.Logger) context.Context {
	return klog.NewContext(ctx, logr.FromSlogHandler(newQuietHandler(log)))
}

// quietHandler lowers and thins out client-go's log lines. What matters in them this package logs in its own words.
type quietHandler struct {
	slog.Handler
	seen *repeats
}

func newQuietHandler(log *slog.Logger) quietHandler {
	return quietHandler{Handler: log.Handler(), seen: &repeats{last: map[string]time.Time{}}}
}

func (h quietHandler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.Handler.Enabled(ctx, lowered(level))
}

func (h quietHandler) Handle(ctx context.Context, record slog.Record) error {
	record.Level = lowered(record.Level)
	if record.Level > slog.LevelDebug && !h.seen.allow(record.Message, record.Time) {
		return nil
	}
	return h.Handler.Handle(ctx, record)
}

func (h quietHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return quietHandler{Handler: h.Handler.WithAttrs(attrs), seen: h.seen}
}

func (h quietHandler) WithGroup(name string) slog.Handler {
	return quietHandler{Handler: h.Handler.WithGroup(name), seen: h.seen}
}

func lowered(level slog.Level) slog.Level {
	switch {
	case level >= slog.LevelError:
		return slog.LevelWarn
	case level >= slog.LevelInfo:
		return slog.LevelDebug
	}
	return level - 4
}

// repeats remembers when messages were logged last.
type repeats struct {
	mu   sync.Mutex
	last map[string]time.Time
}

func (r *repeats) allow(message string, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last, ok := r.last[message]; ok && now.Sub(last) < repeatEvery {
		return false
	}
	if len(r.last) >= maxRepeats {
		clear(r.last)
	}
	r.last[message] = now
	return true
}

package api

import (
	"context"
	"log/slog"
	"net/http"
)

// logLevel is how much the agent logs: the body of a request to change it, and of each answer.
type logLevel struct {
	Level slog.Level `json:"level"`
}

func (s *Server) getLogLevel(w http.ResponseWriter, r *http.Request) {
	if s.cfg.LogLevel == nil {
		http.NotFound(w, r)
		return
	}
	writeJSON(w, logLevel{s.cfg.LogLevel.Level()})
}

func (s *Server) setLogLevel(w http.ResponseWriter, r *http.Request) {
	request, err := readRequest[logLevel](http.MaxBytesReader(w, r.Body, maxRequest))
	switch {
	case s.cfg.LogLevel == nil:
		http.NotFound(w, r)
		return
	case err != nil:
		http.Error(w, `the body isn't a level to log at, such as {"level":"DEBUG"}: `+err.Error(), http.StatusBadRequest)
		return
	}
	if before := s.cfg.LogLevel.Level(); before != request.Level {
		s.cfg.LogLevel.Set(min(before, request.Level)) // the line is for the one who reads either
		s.cfg.Log.Info("the log level is changed, as asked for", "before", before, "after", request.Level)
		s.cfg.LogLevel.Set(request.Level)
	}
	writeJSON(w, request)
}

// LogLevel asks how much the agent logs. It waits 5 s at most. What fails is an *AgentError.
func (c Client) LogLevel(ctx context.Context) (slog.Level, error) {
	answer, err := get[logLevel](ctx, c, logLevelPath)
	return answer.Level, err
}

// SetLogLevel has the agent log lines of this level and above, until it is started again. It waits 5 s at most. What fails is an
// *AgentError.
func (c Client) SetLogLevel(ctx context.Context, level slog.Level) error {
	_, err := ask[logLevel](ctx, c, logLevelPath, logLevel{level})
	return err
}

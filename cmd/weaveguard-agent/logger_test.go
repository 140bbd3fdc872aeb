package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// With --log-format=json each line is an object of its own, with the keys that slog has.
func TestLogger(t *testing.T) {
	stderr := os.Stderr
	defer func() { os.Stderr = stderr }()
	for format, check := range map[string]func(line string) error{
		"text": func(line string) error {
			if !strings.Contains(line, `level=WARN msg="it is so" node=a error=no`) {
				return errors.New("it isn't text")
			}
			return nil
		},
		"json": func(line string) error {
			var got map[string]string
			if err := json.Unmarshal([]byte(line), &got); err != nil {
				return err
			}
			if got["level"] != "WARN" || got["msg"] != "it is so" || got["node"] != "a" || got["error"] != "no" || got["time"] == "" {
				return errors.New("it lacks something")
			}
			return nil
		},
	} {
		path := filepath.Join(t.TempDir(), "log")
		file, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		os.Stderr = file
		log, level, err := (&options{LogLevel: "info", LogFormat: format}).logger()
		if err != nil || level.Level() != 0 {
			t.Fatalf("%s: %v, level %v", format, err, level)
		}
		log.Debug("unsaid")
		log.Warn("it is so", "node", "a", "error", errors.New("no"))
		text, err := os.ReadFile(path)
		if err != nil || file.Close() != nil {
			t.Fatal(err)
		}
		if err := check(string(text)); err != nil || strings.Count(string(text), "\n") != 1 {
			t.Errorf("%s: %v: %s", format, err, text)
		}
	}
	for _, o := range []options{{LogLevel: "info", LogFormat: "xml"}, {LogLevel: "loud", LogFormat: "json"}} {
		if _, _, err := o.logger(); err == nil || !strings.Contains(err.Error(), "it takes") {
			t.Errorf("%+v: %v, want what it takes", o, err)
		}
	}
}

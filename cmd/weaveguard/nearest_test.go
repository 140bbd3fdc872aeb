package main

import (
	"slices"
	"testing"
)

func TestNearest(t *testing.T) {
	names := []string{"worker-1", "worker-2", "worker-10", "control-plane", "db.example.com"}
	for name, want := range map[string][]string{
		"worker-3":       {"worker-1", "worker-2", "worker-10"},
		"wroker-2":       {"worker-2"},
		"WORKER-2":       {"worker-2", "worker-1"},
		"db":             {"db.example.com"},
		"controlplane":   {"control-plane"},
		"something-else": nil,
		"":               nil,
	} {
		got := nearest(name, names)
		if len(got) > 0 && len(want) > 0 && len(want) < len(got) {
			got = got[:len(want)]
		}
		if !slices.Equal(got, want) {
			t.Errorf("nearest(%q) = %q, want %q", name, got, want)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"abc", "abc", 0}, {"abc", "acb", 2}, {"ä", "a", 1},
	} {
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}

package main

import (
	"testing"
	"time"
)

func TestAge(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                            "0s",
		1400 * time.Millisecond:      "1s",
		59600 * time.Millisecond:     "1m0s",
		153 * time.Second:            "2m33s",
		5*time.Hour + 12*time.Minute: "5h12m",
		80 * time.Hour:               "3d8h",
		-time.Second:                 "-1s",
	} {
		if got := age(d); got != want {
			t.Errorf("age(%v) = %q, want %q", d, got, want)
		}
	}
}

package main

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
)

// A recording is good only when it has each control, and the marker nowhere else.
func TestFindMarkers(t *testing.T) {
	nodes := []string{"node-1", "node-2", "node-3"}
	const control = " control XYZ"
	var good []byte
	for _, from := range nodes {
		for _, to := range nodes {
			if from != to {
				good = append(good, "\x00header"+controlText(control, from, to)+"\xff"...)
			}
		}
	}
	// A host that nobody listens on quotes what it got (ICMP port unreachable).
	quoted := slices.Concat(good, good)
	tests := []struct {
		name            string
		data            []byte
		clear, controls int
		missing         []string
	}{
		{"good", good, 0, 6, nil},
		{"quoted", quoted, 0, 6, nil},
		{"a page in the clear", append(slices.Clone(good), `{"marker":"`+marker+`"}`...), 1, 6, nil},
		{"the controls of another run", bytes.ReplaceAll(good, []byte("XYZ"), []byte("ABC")), 6, 0,
			[]string{"from node-1 to node-2", "from node-1 to node-3", "from node-2 to node-1", "from node-2 to node-3",
				"from node-3 to node-1", "from node-3 to node-2"}},
		{"a control is missing", bytes.Replace(good, []byte(controlText(control, "node-2", "node-3")), nil, 1), 0, 5,
			[]string{"from node-2 to node-3"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			clear, controls, missing := findMarkers(tt.data, control, nodes)
			if clear != tt.clear || controls != tt.controls || !slices.Equal(missing, tt.missing) {
				t.Errorf("in the clear %d, controls %d, missing %q; want %d, %d, %q", clear, controls, missing, tt.clear, tt.controls,
					tt.missing)
			}
		})
	}
}

// A step ends with how long it took, at the end of 80 columns.
func TestTeller(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(0, 0)
	tell := &teller{out: &out, now: func() time.Time { return now }}
	tell.step(1, 2, "Do a thing")
	tell.note("%s", strings.Repeat("progress ", 20))
	now = now.Add(12300 * time.Millisecond)
	tell.done("%s", strings.Repeat("done ", 30))
	tell.step(2, 2, "Do another")
	tell.failed(errors.New("one error\nand another"))
	got := out.String()
	for line := range strings.Lines(got) {
		if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > width {
			t.Errorf("a line has %d columns: %s", n, line)
		}
	}
	for _, want := range []string{
		"\n1/2 Do a thing\n   progress ", "   ✓ done ", "\n     done ",
		"   ✗ one error\n     and another" + strings.Repeat(" ", 59) + "0.0 s\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the text lacks %q:\n%s", want, got)
		}
	}
	if i := strings.Index(got, "12.3 s\n"); i < 0 || utf8.RuneCountInString(got[strings.LastIndex(got[:i], "\n")+1:i]) != width-len("12.3 s") {
		t.Errorf("the time isn't at the end of column %d:\n%s", width, got)
	}
}

// Waiting for an image that no registry has is hopeless, and for a container that starts it isn't.
func TestRunning(t *testing.T) {
	pod := func(s corev1.ContainerState) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{
			Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{State: s}},
		}}
	}
	waiting := func(reason string) corev1.Pod {
		return pod(corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}})
	}
	if err := running(pod(corev1.ContainerState{Running: &corev1.ContainerStateRunning{}})); err != nil {
		t.Errorf("a running pod: %v", err)
	}
	for reason, want := range map[string]bool{
		"ErrImagePull": true, "ImagePullBackOff": true, "ErrImageNeverPull": true, "ContainerCreating": false, "CrashLoopBackOff": false,
	} {
		err := running(waiting(reason))
		if _, got := errors.AsType[hopeless](err); err == nil || got != want {
			t.Errorf("%s: %v, hopeless %v, want %v", reason, err, got, want)
		}
	}
	if err := running(corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}); err == nil {
		t.Error("a pod without containers runs")
	}
}

// What a build says last is its result; the rest is progress.
func TestProgress(t *testing.T) {
	var out bytes.Buffer
	p := &progress{teller: &teller{out: &out}}
	for _, part := range []string{"first\nsec", "ond\n", "\nlast\n"} {
		if _, err := p.Write([]byte(part)); err != nil {
			t.Fatal(err)
		}
	}
	if out.String() != "   first\n   second\n" || p.last != "last" {
		t.Errorf("told %q and kept %q", out.String(), p.last)
	}
}

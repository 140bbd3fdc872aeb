package ui_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weaveguard/weaveguard/mesh/ui"
	"github.com/weaveguard/weaveguard/mesh/view"
	"github.com/weaveguard/weaveguard/test/browser"
)

// An agent that is starting knows nothing yet.
func starting(t *testing.T, b *browser.Browser) {
	page := open(t, b, ui.Sources{
		Status: func(context.Context) (view.Status, error) {
			return view.Status{Time: time.Now(), Node: name(1), Problems: []view.Problem{{Subject: "gossip keyring", Message: "there is none", Remedy: "make one"}}}, nil
		},
		Topology: func(context.Context) (view.Topology, error) { return view.Topology{Node: name(1)}, nil },
	})
	says(t, page, "#headline", "not healthy: this node can't carry pod traffic: gossip keyring: there is none")
	says(t, page, "#problems", "1 node, 0 links", "What to do: make one")
	says(t, page, "#refused", "Nothing was refused")
	has(t, page, "nodes", `document.querySelectorAll(".node.bad").length`, 1)
}

// What is shown while the agent doesn't answer is called old.
func awayAndBack(t *testing.T, b *browser.Browser) {
	f := makeMesh(2, 0)
	var mu sync.Mutex
	var failure error
	sources := f.sources()
	sources.Status = func(context.Context) (view.Status, error) {
		mu.Lock()
		defer mu.Unlock()
		return f.status, failure
	}
	set := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failure = err
	}
	page := open(t, b, sources)
	has(t, page, "the banner is hidden", `document.querySelector("#banner").hidden`, true)
	set(errors.New("no agent runs on this node"))
	page.Wait(t, soon, "what is shown is called old", `document.body.classList.contains("old")`)
	says(t, page, "#banner", "The agent doesn't answer: no agent runs on this node. What is below is old: it is as of 2026-03-04")
	has(t, page, "the banner is an alert", `document.querySelector("#banner").role`, "alert")
	has(t, page, "nodes", `document.querySelectorAll("[data-node]").length`, 2)
	set(nil)
	page.Wait(t, soon, "it is of now again", `!document.body.classList.contains("old") && document.querySelector("#banner").hidden`)
}

// A page that nobody sees doesn't ask, and asks at once when it is seen again.
func hidden(t *testing.T, b *browser.Browser) {
	f := makeMesh(2, 0)
	var held atomic.Bool
	release := make(chan struct{})
	sources := f.sources()
	sources.Topology = func(context.Context) (view.Topology, error) {
		if held.CompareAndSwap(true, false) {
			<-release
		}
		return f.topology, nil
	}
	page := open(t, b, sources)
	browser.Evaluate[bool](t, page, `(() => {
		window.calls = 0;
		const real = window.fetch;
		window.fetch = (...args) => { window.calls++; return real(...args); };
		return true;
	})()`)
	see := func(hidden bool) int {
		return browser.Evaluate[int](t, page, fmt.Sprintf(`(Object.defineProperty(document, "hidden", { value: %t, configurable: true }), document.dispatchEvent(new Event("visibilitychange")), window.calls)`, hidden))
	}
	quiet := func(before int) {
		t.Helper()
		browser.Evaluate[bool](t, page, `(window.ticks = 0, clearInterval(window.ticking), window.ticking = setInterval(() => window.ticks++, 500), true)`)
		page.Wait(t, soon, "time passes in which it would have asked", `window.ticks >= 6`)
		has(t, page, "requests when it was hidden, and later", "window.calls", before)
	}
	held.Store(true)
	page.Wait(t, soon, "a round is under way", "window.calls === 3")
	before := see(true)
	close(release)
	quiet(before)
	seen := time.Now()
	see(false)
	page.Wait(t, soon, "it asks at once when it is seen", "window.calls === 6")
	page.Wait(t, soon, "it goes on", "window.calls === 9")
	if pause := time.Since(seen); pause < 1500*time.Millisecond {
		t.Errorf("it asked again after %v", pause)
	}
	quiet(see(true))
}

// Package browser opens pages in a real browser without a screen, Debian's chromium, and looks at them as a reader would: by what
// is in the document, by keys, in light and in dark. A page may fetch from its own server only, and may log no errors: else the
// test fails.
package browser

import (
	"context"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

const program = "chromium"

// Browser is a running browser.
type Browser struct {
	ctx context.Context
}

// Start starts a browser, which ends with the test.
func Start(t testing.TB) *Browser {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Fatalf("there is no %s, which this test needs: test/deps.sh installs it: %v", program, err)
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path))
	// Pages end before their browser does, and this context after all of them.
	ctx, cancel := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("starting %s: %v", program, err)
	}
	return &Browser{ctx}
}

// Page is a page in a tab of its own.
type Page struct {
	ctx    context.Context
	origin string

	mu     sync.Mutex
	faults []string // what a page mustn't do
}

// Open opens an address in a new tab, width by height pixels large. The page is closed with the test, which fails then if the
// page fetched anything from elsewhere, or had an error.
func (b *Browser) Open(t testing.TB, address string, width, height int64) *Page {
	t.Helper()
	at, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p := &Page{origin: at.Scheme + "://" + at.Host + "/"}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithListener(p.watch))
	p.ctx = ctx
	t.Cleanup(func() {
		cancel()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, fault := range p.faults {
			t.Errorf("the page %s", fault)
		}
	})
	p.do(t, chromedp.EmulateViewport(width, height), chromedp.Navigate(address))
	return p
}

// watch notes what a page mustn't do. Listeners are called one after the other.
func (p *Page) watch(event any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fault := ""
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		if address := e.Request.URL; !strings.HasPrefix(address, p.origin) && !strings.HasPrefix(address, "about:") {
			fault = "fetched " + address
		}
	case *runtime.EventExceptionThrown:
		fault = "threw " + thrown(e.ExceptionDetails)
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError {
			fault = fmt.Sprintf("logged an error: %v", e.Args)
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError && e.Entry.Source != log.EntrySourceNetwork { // a server may fail
			fault = fmt.Sprintf("had an error: %s %s", e.Entry.Text, e.Entry.URL)
		}
	}
	if fault != "" {
		p.faults = append(p.faults, fault)
	}
}

func thrown(d *runtime.ExceptionDetails) string {
	if d.Exception != nil {
		return d.Exception.Description
	}
	return d.Text
}

func (p *Page) do(t testing.TB, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(p.ctx, actions...); err != nil {
		t.Fatal(err)
	}
}

// Evaluate is what an expression of JavaScript comes to in the page.
func Evaluate[T any](t testing.TB, p *Page, expression string) T {
	t.Helper()
	value, err := chromedp.Run(p.ctx, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return value
}

// Text is what a reader sees of an element, by its selector.
func (p *Page) Text(t testing.TB, selector string) string {
	t.Helper()
	return Evaluate[string](t, p, fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector))
}

// Wait waits until an expression is true, and returns how long that took. what says what is waited for.
func (p *Page) Wait(t testing.TB, deadline time.Duration, what, expression string) time.Duration {
	t.Helper()
	start := time.Now()
	for {
		// A page that is being loaded has nothing yet.
		yes, err := chromedp.Run(p.ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if err == nil && yes {
			return time.Since(start)
		}
		if time.Since(start) > deadline {
			t.Fatalf("%s: not within %v: %v; the page:\n%s", what, deadline, err, p.Text(t, "body"))
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%s: the test ended first", what)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Press presses keys: those of a text, or of package kb.
func (p *Page) Press(t testing.TB, keys string) {
	t.Helper()
	p.do(t, chromedp.KeyEvent(keys))
}

// Prefer makes the page believe that its reader prefers light or dark.
func (p *Page) Prefer(t testing.TB, scheme string) {
	t.Helper()
	p.do(t, func(ctx context.Context, target *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return chromedp.Void{}, err
	})
}

// Resize makes the page that large, in pixels.
func (p *Page) Resize(t testing.TB, width, height int64) {
	t.Helper()
	p.do(t, chromedp.EmulateViewport(width, height))
}

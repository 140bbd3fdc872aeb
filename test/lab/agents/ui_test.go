package agents_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp/kb"

	"github.com/weaveguard/weaveguard/mesh/contract"
	"github.com/weaveguard/weaveguard/test/browser"
	"github.com/weaveguard/weaveguard/test/lab/agents"
)

// pageOf is the address by which this process reaches the page of a node's agent, as by kubectl port-forward.
func pageOf(t *testing.T, n *agents.Node) string {
	t.Helper()
	target := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", contract.UIPort)}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		Transport:    &http.Transport{DialContext: n.Dial, DisableKeepAlives: true},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }, // as a closed connection
	})
	t.Cleanup(server.Close)
	return server.URL
}

// linkIs is an expression that is true when a link is in a state, on the page.
func linkIs(link, state string) string {
	return fmt.Sprintf(`document.querySelector('[data-link="%s"]')?.dataset.state === %q`, link, state)
}

// The page of an agent shows all nodes and their pods, and in seconds that a link is down, when its port is blocked, and that it
// is up again. It works by keyboard, and says when the agent doesn't answer.
func TestUI(t *testing.T) {
	t.Parallel()
	m := agents.Up(t, 3)
	h1, h3 := m.Nodes[0], m.Nodes[2]
	h1.AddPod(t, "web-0")
	h1.AddPod(t, "web-1")
	h3.AddPod(t, "db-0")
	page := browser.Start(t).Open(t, pageOf(t, h1), 1200, 1050)
	for name, pods := range map[string]string{"h1, this node: ready": "2 pods", "h2: up": "0 pods", "h3: up": "1 pod"} {
		page.Wait(t, 20*time.Second, "the page shows "+name, fmt.Sprintf(`document.querySelector('[data-node][aria-label="%s, %s"]')`, name, pods))
	}
	page.Wait(t, 5*time.Second, "the link is up", linkIs("h1 h3", "good"))
	if text := page.Text(t, "#headline"); text != "healthy: 2 of 2 peers are up" {
		t.Errorf("the page says %q", text)
	}

	heal, err := m.Lab.BlockUDP(h3.Host, contract.BasePort)
	if err != nil {
		t.Fatal(err)
	}
	// A session that stands counts for three minutes more; one that is lost with its device is told.
	h3.MustRun(t, "ip", "link", "del", contract.DeviceName(0))
	took := page.Wait(t, 30*time.Second, "the link is down", linkIs("h1 h3", "bad"))
	t.Logf("the page shows that the link is down after %.1f s", took.Seconds())
	if text := page.Text(t, "#headline"); !strings.HasPrefix(text, "not healthy: 1 of 2 peers is down: h3: no handshake yet: does UDP port 51820 reach "+h3.Addr.String()) {
		t.Errorf("the page says %q", text)
	}
	byKeyboard(t, page, h3)
	if err := heal(); err != nil {
		t.Fatal(err)
	}
	took = page.Wait(t, 30*time.Second, "the link is up again", linkIs("h1 h3", "good"))
	t.Logf("the page shows that the link is up again after %.1f s", took.Seconds())

	if err := h1.Agent.Stop(); err != nil {
		t.Error(err)
	}
	page.Wait(t, 15*time.Second, "the page says that the agent is away",
		`document.body.classList.contains("old") && document.querySelector("#banner").innerText.startsWith("The agent doesn't answer: it can't be reached. What is below is old")`)
	h1.StartAgent(t)
	page.Wait(t, 20*time.Second, "the page is of now again", `!document.body.classList.contains("old") && document.querySelector("#banner").hidden && `+linkIs("h1 h3", "good"))
}

// byKeyboard goes to a node, opens and closes it.
func byKeyboard(t *testing.T, page *browser.Page, n *agents.Node) {
	t.Helper()
	focused := `document.activeElement?.dataset?.node`
	for range 20 {
		if browser.Evaluate[string](t, page, focused+` ?? ""`) != "" {
			break
		}
		page.Press(t, kb.Tab)
	}
	for range 3 {
		if browser.Evaluate[string](t, page, focused+` ?? ""`) == n.Name {
			break
		}
		page.Press(t, kb.ArrowRight)
	}
	page.Press(t, kb.Enter)
	page.Wait(t, 5*time.Second, "the node's detail is open and has the focus", `document.querySelector("#detail").contains(document.activeElement)`)
	text := page.Text(t, "#detail")
	for _, want := range []string{n.Name, n.Addr.String() + ":51820", n.CIDR.String(), "db-0", n.CIDR.Addr().Next().Next().String(), "none yet"} {
		if !strings.Contains(text, want) {
			t.Errorf("the detail lacks %q:\n%s", want, text)
		}
	}
	page.Picture(t, "../../../docs/images/ui-light.png")
	page.Press(t, kb.Escape)
	page.Wait(t, 5*time.Second, "the detail is closed, and the node has the focus again", fmt.Sprintf(`document.querySelector("#detail").hidden && %s === %q`, focused, n.Name))
}

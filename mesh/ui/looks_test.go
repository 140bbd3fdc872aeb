package ui_test

import (
	"fmt"
	"testing"

	"github.com/weaveguard/weaveguard/test/browser"
)

// Both schemes are as the reader prefers, and can be read (WCAG 2.2, 1.4.3: 4.5 to 1).
func lightAndDark(t *testing.T, b *browser.Browser) {
	f := makeMesh(12, 6)
	f.down(1, 9, "no handshake for 3m2s: is the node down, or UDP port 51820 blocked?")
	f.cell(5, 11).Loss = 0.1
	page := open(t, b, f.sources())
	grounds := map[string]string{}
	for _, scheme := range []string{"light", "dark"} {
		page.Prefer(t, scheme)
		grounds[scheme] = browser.Evaluate[string](t, page, `getComputedStyle(document.body).backgroundColor`)
		if faint := browser.Evaluate[string](t, page, unreadable); faint != "" {
			t.Errorf("in %s these can hardly be read: %s", scheme, faint)
		}
	}
	if grounds["light"] == grounds["dark"] {
		t.Errorf("in light and in dark the ground is %s", grounds["light"])
	}
	page.Picture(t, "../../docs/images/ui-dark.png")
}

// unreadable is what the page has of texts with too little contrast to what is behind them.
const unreadable = `(() => {
	const parse = (c) => c.match(/[\d.]+/g).map(Number);
	const luminance = (c) => parse(c).slice(0, 3).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
		.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
	const behind = (e) => {
		for (; e; e = e.parentElement) {
			const c = getComputedStyle(e).backgroundColor;
			if ((parse(c)[3] ?? 1) > 0) return c;
		}
		return "rgb(255, 255, 255)";
	};
	const found = new Set();
	for (const e of document.querySelectorAll("body *")) {
		if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || e.tagName === "NOSCRIPT" || e.tagName === "title") continue;
		const style = getComputedStyle(e);
		const [a, b] = [luminance(e.namespaceURI.includes("svg") ? style.fill : style.color), luminance(behind(e))];
		const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
		if (ratio < 4.5) found.add(e.tagName + "." + e.getAttribute("class") + " " + ratio.toFixed(1));
	}
	return [...found].join(", ");
})()`

// On a narrow screen nothing has to be scrolled sideways but tables.
func narrow(t *testing.T, b *browser.Browser) {
	page := open(t, b, makeMesh(12, 3).sources())
	page.Resize(t, 360, 740)
	page.Wait(t, soon, "the map fits", `document.querySelector("#drawing svg").getBoundingClientRect().width <= 340`)
	browser.Evaluate[bool](t, page, fmt.Sprintf(`(location.hash = "#node=%s", true)`, name(4)))
	page.Wait(t, soon, "the detail is open", `!document.querySelector("#detail").hidden`)
	has(t, page, "how wide it is", `document.documentElement.scrollWidth`, 360)
}

// Labels don't lie on each other, on each other's nodes, or beyond the map.
func labelsApart(t *testing.T, b *browser.Browser) {
	f := makeMesh(40, 0)
	page := open(t, b, f.sources())
	for _, width := range []int64{1200, 700, 380} {
		page.Resize(t, width, 900)
		page.Wait(t, soon, "the map fits", fmt.Sprintf(`document.querySelector("#drawing svg").getBoundingClientRect().width <= %d`, width))
		has(t, page, "labels in the way of something", `(() => {
			const boxes = (s) => [...document.querySelectorAll(s)].map((e) => e.getBoundingClientRect());
			const cross = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
			const [labels, nodes, map] = [boxes("#drawing .label"), boxes("#drawing .body"), boxes("#drawing")[0]];
			if (labels.length < 5) return "few: " + labels.length;
			return String(labels.filter((a, i) => labels.some((b, j) => i < j && cross(a, b)) || nodes.some((n) => cross(a, n)) ||
				a.left < map.left || a.right > map.right || a.top < map.top || a.bottom > map.bottom).length);
		})()`, "0")
	}
}

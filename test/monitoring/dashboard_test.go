package monitoring_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weaveguard/weaveguard/test/internal/monitoring"
)

// Grafana takes a dashboard with two panels of one ID, or one above the other, and shows it badly.
func TestDashboardIsWhole(t *testing.T) {
	t.Parallel()
	d := monitoring.ReadDashboard(t)
	variables := map[string]bool{"$__rate_interval": true}
	for _, v := range d.Templating.List {
		variables["$"+v.Name] = true
	}
	ids, taken := map[int]string{}, map[string]string{}
	for _, p := range d.Panels {
		if other := ids[p.ID]; other != "" || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %q has the ID %d, which %q has too", p.Title, p.ID, other)
		}
		ids[p.ID] = p.Title
		if (len(p.Targets) == 0) != (p.Type == "row") {
			t.Errorf("panel %q, a %s, has %d queries", p.Title, p.Type, len(p.Targets))
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				place := fmt.Sprint(x, ",", y)
				if taken[place] != "" || x >= 24 {
					t.Errorf("panel %q is at %s, where %q is, or nothing can be", p.Title, place, taken[place])
				}
				taken[place] = p.Title
			}
		}
		for _, target := range p.Targets {
			if !strings.Contains(target.Expr, `job=~"$job"`) || !strings.Contains(target.Expr, `instance=~"$instance"`) {
				t.Errorf("panel %q isn't of the nodes that are chosen: %s", p.Title, target.Expr)
			}
			for _, word := range strings.FieldsFunc(target.Expr, func(r rune) bool { return strings.ContainsRune("\"[](){},= ~!", r) }) {
				if strings.HasPrefix(word, "$") && !variables[word] {
					t.Errorf("panel %q: there is no variable %s", p.Title, word)
				}
			}
		}
	}
}

package monitoring_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"github.com/weaveguard/weaveguard/test/internal/monitoring"
)

const operatorFile = "../../deploy/monitoring/operator.yaml"

// rulesBegin is where the rules begin in operator.yaml; what is before is written by hand.
const rulesBegin = "spec:\n  groups:\n"

// The Prometheus operator's rules are those of the rule file.
func TestOperatorHasTheRules(t *testing.T) {
	t.Parallel()
	got := monitoring.File(t, "operator.yaml")
	before, _, ok := strings.Cut(got, rulesBegin)
	_, rules, okRules := strings.Cut(monitoring.File(t, "alerts.yaml"), "\ngroups:\n")
	if !ok || !okRules {
		t.Fatal("there are no rules")
	}
	want := before + rulesBegin + regexp.MustCompile("(?m)^(.)").ReplaceAllString(rules, "  $1")
	if *update {
		if err := os.WriteFile(operatorFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if got != want {
		t.Errorf("operator.yaml hasn't the rules of alerts.yaml: go test ./test/monitoring -update writes them")
	}
}

// The Prometheus operator finds the agents' pods and port, and calls them what the alerts and the dashboard do.
func TestOperatorFindsTheAgents(t *testing.T) {
	t.Parallel()
	var monitor struct {
		Kind string
		Spec struct {
			JobLabel            string
			Selector            metav1.LabelSelector
			PodMetricsEndpoints []struct {
				Port        string
				Relabelings []struct {
					SourceLabels []string
					TargetLabel  string
				}
			}
		}
	}
	document := strings.Split(monitoring.File(t, "operator.yaml"), "\n---\n")[0]
	if err := yaml.Unmarshal([]byte(document), &monitor); err != nil || monitor.Kind != "PodMonitor" {
		t.Fatalf("%q: %v; want a PodMonitor", monitor.Kind, err)
	}
	selector, err := metav1.LabelSelectorAsSelector(&monitor.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	agents := 0
	for document := range strings.SplitSeq(monitoring.File(t, "../weaveguard.yaml"), "\n---\n") {
		var set appsv1.DaemonSet
		if err := yaml.Unmarshal([]byte(document), &set); err != nil || set.Kind != "DaemonSet" {
			continue
		}
		if !selector.Matches(labels.Set(set.Spec.Template.Labels)) {
			continue
		}
		agents++
		if job := set.Spec.Template.Labels[monitor.Spec.JobLabel]; set.Name != "weaveguard" || job != "weaveguard" {
			t.Errorf("the DaemonSet %s is scraped as the job %q, want weaveguard alone", set.Name, job)
		}
		found := false
		for _, container := range set.Spec.Template.Spec.Containers {
			for _, port := range container.Ports {
				found = found || port.Name == monitor.Spec.PodMetricsEndpoints[0].Port && port.ContainerPort == 6782
			}
		}
		if !found {
			t.Errorf("the DaemonSet has no port %q", monitor.Spec.PodMetricsEndpoints[0].Port)
		}
	}
	if agents != 1 {
		t.Errorf("%d DaemonSets are scraped, want 1", agents)
	}
}

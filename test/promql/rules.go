package main

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
)

// parseRules checks a rule file as Prometheus does when it loads one: unknown fields, expressions, and templates.
func parseRules(text string) ([]Alert, []string) {
	groups, errs := rulefmt.Parse([]byte(text), false, model.UTF8Validation, parser.NewParser(parser.Options{}), slog.Default())
	var said []string
	for _, err := range errs {
		said = append(said, err.Error())
	}
	if groups == nil {
		return nil, said
	}
	var alerts []Alert
	for _, group := range groups.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				said = append(said, fmt.Sprintf("group %s: %s isn't an alert", group.Name, rule.Record))
				continue
			}
			alerts = append(alerts, Alert{
				Name: rule.Alert, Expr: rule.Expr, For: time.Duration(rule.For).Milliseconds(), Labels: rule.Labels,
				Annotations: rule.Annotations,
			})
		}
	}
	return alerts, said
}

package view

import "context"

// Changes gathers in words what is changed while something is applied.
type Changes struct {
	Made  []string // what wasn't there
	Texts []string // other changes
}

// AddTo adds the changes to those that ctx gathers.
func (c *Changes) AddTo(ctx context.Context) {
	if to, ok := ctx.Value(changesKey{}).(*Changes); ok {
		to.Made, to.Texts = append(to.Made, c.Made...), append(to.Texts, c.Texts...)
	}
}

type changesKey struct{}

// WithChanges returns a context under which Changed and Made add to the Changes.
func WithChanges(ctx context.Context) (context.Context, *Changes) {
	c := &Changes{}
	return context.WithValue(ctx, changesKey{}, c), c
}

// Changed notes a change, such as "setting X to 1".
func Changed(ctx context.Context, what string) {
	if c, ok := ctx.Value(changesKey{}).(*Changes); ok {
		c.Texts = append(c.Texts, what)
	}
}

// Made notes that something was made that wasn't there, such as "adding the peer X".
func Made(ctx context.Context, what string) {
	if c, ok := ctx.Value(changesKey{}).(*Changes); ok {
		c.Made = append(c.Made, what)
	}
}

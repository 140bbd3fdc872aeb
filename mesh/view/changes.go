package view

import "context"

// maxChanges is how many changes are kept in words.
const maxChanges = 20

// Changes gathers in words what is changed while something is applied.
type Changes struct {
	Texts []string // the first of them
	Count int
}

type changesKey struct{}

// WithChanges returns a context under which Changed adds to the Changes.
func WithChanges(ctx context.Context) (context.Context, *Changes) {
	c := &Changes{}
	return context.WithValue(ctx, changesKey{}, c), c
}

// Changed notes a change that was made, such as "adding the route X".
func Changed(ctx context.Context, what string) {
	c, ok := ctx.Value(changesKey{}).(*Changes)
	if !ok {
		return
	}
	if c.Count++; len(c.Texts) < maxChanges {
		c.Texts = append(c.Texts, what)
	}
}

package pod

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// What happens to three parts, in order: a is asked to end, or one of them fails.
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		fails string // "start b": its Start fails; "b ends", "b fails": its Serve returns
		want  string
		err   string
	}{
		{"", "listen a, listen c, start a, start b, start c, asked, stop c, end c, stop b, end b, stop a, end a", ""},
		{"listen a", "listen a, listen c, stop c, stop a", "listen a"},
		{"listen a, listen c", "listen a, listen c, stop c, stop a", "cannot listen:\n  listen a\n  listen c"},
		{"start b", "listen a, listen c, start a, start b, stop c, stop a, end a", "start b"},
		{"asked in b", "listen a, listen c, start a, stop c, stop a, end a", ""},
		{"b fails", "listen a, listen c, start a, start b, start c, b fails, stop c, end c, stop b, stop a, end a", "b fails"},
		{"b ends", "listen a, listen c, start a, start b, start c, b ends, stop c, end c, stop b, stop a, end a", ""},
	} {
		t.Run(tt.fails, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var done []string
				step := func(what, name string) error {
					done = append(done, what+name)
					if slices.Contains(strings.Split(tt.fails, ", "), what+name) {
						return errors.New(what + name)
					}
					return nil
				}
				part := func(name string) Part {
					return Part{
						Name: name,
						Start: func(ctx context.Context) error {
							if tt.fails == "asked in b" && name == "b" {
								cancel()
								<-ctx.Done()
								return fmt.Errorf("b: %w", ctx.Err())
							}
							return step("start ", name)
						},
						Serve: func(ctx context.Context) error {
							if _, how, _ := strings.Cut(tt.fails, "b "); name == "b" && (how == "ends" || how == "fails") {
								synctest.Wait() // until all have started
								err := step("b ", how)
								if how == "ends" {
									err = nil
								}
								return err
							}
							<-ctx.Done()
							return step("end ", name)
						},
						Stop: func() { _ = step("stop ", name) },
					}
				}
				a, b, c := part("a"), part("b"), part("c")
				a.Listen = func(context.Context) error { return step("listen ", "a") }
				c.Listen = func(context.Context) error { return step("listen ", "c") }
				if tt.fails == "" {
					go func() {
						synctest.Wait()
						_ = step("asked", "")
						cancel()
					}()
				}
				err := run(ctx, []Part{a, b, c})
				if got := strings.Join(done, ", "); got != tt.want {
					t.Errorf("got  %s\nwant %s", got, tt.want)
				}
				if (err == nil) != (tt.err == "") || err != nil && err.Error() != tt.err {
					t.Errorf("err %v, want %q", err, tt.err)
				}
			})
		})
	}
}

package dirtest

import "strings"

// Shrink returns a shorter script that violates the same invariant as s, by
// taking operations away as long as it still does. It runs the script at most
// runs times.
func Shrink(s *Script, runs int) *Script {
	best := *s
	first := invariant(Run(&best, false))
	if first == "" {
		return s
	}
	fails := func(ops []Op) bool {
		if runs <= 0 {
			return false
		}
		runs--
		try := best
		try.Ops = ops
		return invariant(Run(&try, false)) == first
	}
	for again := true; again; {
		again = false
		for size := max(len(best.Ops)/2, 1); size > 0; size /= 2 {
			for i := 0; i+size <= len(best.Ops); {
				rest := append(append([]Op{}, best.Ops[:i]...), best.Ops[i+size:]...)
				if fails(rest) {
					best.Ops, again = rest, true
				} else {
					i += size
				}
			}
		}
	}
	return &best
}

// invariant is which one a run violated.
func invariant(r Result) string {
	name, _, _ := strings.Cut(r.Violation, ":")
	return name
}

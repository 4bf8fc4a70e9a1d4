package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// report is what a run found, as it is written to JSON.
type report struct {
	Started  time.Time `json:"started"`
	Seconds  float64   `json:"seconds"`
	OS       string    `json:"os"`
	Kernel   string    `json:"kernel,omitempty"`
	CPU      string    `json:"cpu,omitempty"`
	CPUs     int       `json:"cpus"`
	Go       string    `json:"go"`       // of the generator
	Revision string    `json:"revision"` // the same
	Relays   []string  `json:"relays"`   // binaries or address
	Load     string    `json:"load"`
	Rows     []*row    `json:"rows"`
	Failed   []string  `json:"failed,omitempty"`
}

// row is one line of figures of one target, with the values of all rounds.
type row struct {
	Section string   `json:"section"`
	Load    string   `json:"load"`
	Target  string   `json:"target"`
	Label   string   `json:"label,omitempty"`
	Base    string   `json:"base,omitempty"`
	Figures []values `json:"figures"`

	base   string // the target it is compared with
	ratios []string
}

type values struct {
	Name   string    `json:"name"`
	Rounds []float64 `json:"rounds"`
}

func newReport(b *bench) *report {
	r := &report{
		Started: time.Now().Truncate(time.Second), OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Relays: b.relays, Load: fmt.Sprintf("%d pairs, window %d, batches of %d, %d pods", b.pairs, b.window, b.batch, b.pods),
	}
	if b.tls {
		r.Load += ", peers over TLS"
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // a figure for the reader, who does without
	r.Kernel = strings.TrimSpace(string(kernel))
	info, _ := os.ReadFile("/proc/cpuinfo")
	if _, model, ok := strings.Cut(string(info), "model name\t: "); ok {
		r.CPU, _, _ = strings.Cut(model, "\n")
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" || s.Key == "vcs.modified" && s.Value == "true" {
				r.Revision = strings.TrimSpace(r.Revision + " " + strings.Replace(s.Value, "true", "with changes", 1))
			}
		}
	}
	return r
}

// add keeps the samples of one round.
func (r *report) add(s section, load string, t *target, samples []sample) {
	for _, sample := range samples {
		o := r.row(s.name, load, t.name, sample.label)
		if o == nil {
			o = &row{Section: s.name, Load: load, Target: t.name, Label: sample.label, Base: sample.base, base: t.base, ratios: s.ratios}
			r.Rows = append(r.Rows, o)
			o.Figures = make([]values, len(sample.figures))
		}
		for k, f := range sample.figures {
			o.Figures[k].Name = f.name
			o.Figures[k].Rounds = append(o.Figures[k].Rounds, f.value)
		}
	}
}

// base returns the row that o is compared with: another phase of the same target,
// or the copier, or the same pods with all pairs on one of them.
func (r *report) base(o *row) *row {
	target, label := o.base, o.Label
	if o.Base != "" {
		target, label = o.Target, o.Base
	}
	return r.row(o.Section, o.Load, target, label)
}

func (r *report) row(section, load, target, label string) *row {
	i := slices.IndexFunc(r.Rows, func(o *row) bool {
		return o.Section == section && o.Load == load && o.Target == target && o.Label == label
	})
	if i < 0 {
		return nil
	}
	return r.Rows[i]
}

// compare returns the ratio of the medians of o and its base, and those of each
// round, for the figures that the section compares.
func (o *row) compare(base *row) string {
	var words []string
	for _, name := range o.ratios {
		a, b := o.rounds(name), base.rounds(name)
		if len(a) == 0 || median(b) == 0 {
			continue
		}
		each := ""
		for i := range min(len(a), len(b)) {
			if len(a) > 1 {
				each += fmt.Sprintf(" %.2f", a[i]/b[i])
			}
		}
		what, _, _ := strings.Cut(name, " ")
		words = append(words, fmt.Sprintf("%s %.2f×%s", what, median(a)/median(b), each))
	}
	return strings.Join(words, "; ")
}

func (o *row) rounds(name string) []float64 {
	for _, f := range o.Figures {
		if f.Name == name {
			return f.Rounds
		}
	}
	return nil
}

func (r *report) writeJSON(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// writeTable writes the medians of the rounds for people.
func (r *report) writeTable(w io.Writer) error {
	fmt.Fprintf(w, "relay-bench of %s: %s\n", strings.Join(r.Relays, " and "), r.Load)
	fmt.Fprintf(w, "%s, %s, %s, %d CPUs %s, revision %s\n", r.Started.Format("2006-01-02 15:04"), r.Kernel, r.Go, r.CPUs, r.CPU, r.Revision)
	fmt.Fprintln(w, "Medians of the rounds. CPU is that of all the server's processes. The last column compares with the copier, with one pod, or with the phase before.")
	if busy := r.others(); busy > 5 {
		fmt.Fprintf(w, "The machine was not quiet: in a measurement up to %.0f %% of its CPUs worked on something else.\n", busy)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	section, header := "", ""
	for _, o := range r.Rows {
		if o.Section != section {
			tw.Flush()
			section, header = o.Section, ""
			fmt.Fprintf(w, "\n%s\n", section)
		}
		names, cells := "", ""
		for _, f := range o.Figures {
			names += "\t" + f.Name
			cells += "\t" + format(median(f.Rounds))
		}
		if names != header {
			header = names
			fmt.Fprintf(tw, "  load\ttarget\t%s\t\n", names)
		}
		ratio := ""
		if base := r.base(o); base != nil {
			ratio = o.compare(base)
		}
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\n", comma(o.Load, o.Label), o.Target, cells, ratio)
	}
	tw.Flush()
	for _, f := range r.Failed {
		fmt.Fprintf(w, "\nnot measured: %s\n", f)
	}
	_, err := fmt.Fprintf(w, "\ntook %.0f s\n", r.Seconds)
	return err
}

// others returns the largest share of the CPUs, in %, that was busy with
// something else in a measurement.
func (r *report) others() (most float64) {
	for _, o := range r.Rows {
		most = max(most, slices.Max(append([]float64{0}, o.rounds("others %")...)))
	}
	return most
}

func format(v float64) string {
	switch {
	case v == float64(int64(v)) || v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v < 1:
		return fmt.Sprintf("%.3f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// median returns the middle value, the mean of the two middle ones for an even
// number, 0 for none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	m := len(v) / 2
	if len(v)%2 == 1 {
		return v[m]
	}
	return (v[m-1] + v[m]) / 2
}

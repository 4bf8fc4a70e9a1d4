package bench

import (
	"bufio"
	"bytes"
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

// Report is what a run found. Sections that did not run are empty.
type Report struct {
	Started time.Time `json:"started"`
	Seconds float64   `json:"seconds"`
	Machine Machine   `json:"machine"`
	// Relay is the address that was measured, empty for servers started by
	// the run, and Mode how messages reached it.
	Relay string `json:"relay,omitempty"`
	Mode  string `json:"mode"`

	// Others is the largest share of the machine's CPUs, 0 to 1, that was busy
	// with neither generator nor server in a measurement of messages: other
	// programs and the hypervisor. Above a few hundredths the times mean
	// little; CPU per message suffers less.
	Others float64 `json:"others_share"`

	Throughput []Throughput `json:"throughput,omitempty"`
	Singles    *Throughput  `json:"singles,omitempty"`
	Latency    []Latency    `json:"latency,omitempty"`
	Memory     []Memory     `json:"memory,omitempty"`
	Connect    []Connect    `json:"connect,omitempty"`
	Stall      *Stall       `json:"stall,omitempty"`
	Absent     *Absent      `json:"absent,omitempty"`
	Pods       *Pods        `json:"pods,omitempty"`
	Failed     []Failure    `json:"failed,omitempty"`
}

// Failure is a section that could not be measured.
type Failure struct {
	Section string `json:"section"`
	Reason  string `json:"reason"`
}

// Machine is where a run took place. Figures of two machines cannot be
// compared, only their ratios.
type Machine struct {
	OS       string `json:"os"`
	Kernel   string `json:"kernel,omitempty"`
	CPU      string `json:"cpu,omitempty"`
	CPUs     int    `json:"cpus"`
	Go       string `json:"go"` // of the generator and, when the run started it, the server
	Revision string `json:"revision,omitempty"`
}

func newReport(o Options) *Report {
	mode := "plain, keys zero"
	if o.RandomKeys {
		mode = "plain, keys random"
	}
	if o.TLS || strings.HasPrefix(o.URL, "rels:") {
		mode = strings.Replace(mode, "plain", "TLS", 1)
	}
	return &Report{Started: time.Now().Truncate(time.Second), Machine: thisMachine(), Relay: o.URL, Mode: mode}
}

// sum fills in what follows from the sections.
func (r *Report) sum() {
	rows := r.Throughput
	if r.Singles != nil {
		rows = append(rows[:len(rows):len(rows)], *r.Singles)
	}
	for _, row := range rows {
		for _, round := range slices.Concat(row.Relay, row.Copier) {
			r.Others = max(r.Others, round.Others)
		}
	}
	if r.Stall != nil {
		r.Others = max(r.Others, r.Stall.Others)
	}
	if r.Absent != nil {
		r.Others = max(r.Others, r.Absent.Others)
	}
	for _, row := range r.Latency {
		for _, round := range slices.Concat(row.Relay, row.Copier) {
			r.Others = max(r.Others, round.Others)
		}
	}
	if r.Pods != nil {
		for _, row := range append(slices.Clone(r.Pods.Throughput), r.Pods.Singles) {
			for _, round := range slices.Concat(row.Cross, row.Same) {
				r.Others = max(r.Others, round.Others)
			}
		}
		for _, round := range slices.Concat(r.Pods.Latency.Cross, r.Pods.Latency.Same) {
			r.Others = max(r.Others, round.Others)
		}
		r.Others = max(r.Others, r.Pods.Absent.Others)
	}
}

func thisMachine() Machine {
	m := Machine{OS: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version()}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		m.CPU = cpuModel(b)
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision":
				m.Revision = s.Value[:min(12, len(s.Value))] + m.Revision
			case s.Key == "vcs.modified" && s.Value == "true":
				m.Revision += "+changes"
			}
		}
	}
	return m
}

// cpuModel returns the first model name in /proc/cpuinfo.
func cpuModel(cpuinfo []byte) string {
	lines := bufio.NewScanner(bytes.NewReader(cpuinfo))
	for lines.Scan() {
		if name, value, ok := strings.Cut(lines.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// WriteJSON writes the report for machines.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// WriteTable writes the report for people.
func (r *Report) WriteTable(w io.Writer) error {
	t := &table{w: bufio.NewWriter(w)}
	what := "a server of its own for each section"
	if r.Relay != "" {
		what = r.Relay
	}
	t.line("relay bench of %s (%s)", what, r.Mode)
	t.line("%s, %s, %s, %d CPUs %s", r.Started.Format("2006-01-02 15:04"), r.Machine.Kernel, r.Machine.Go, r.Machine.CPUs, r.Machine.CPU)
	t.line("CPU is the server's. A ratio is that of the medians of all rounds, to a TCP byte copier in turns with the relay.")

	if r.Others > 0.05 {
		t.line("The machine was not quiet: in a measurement up to %.0f %% of its CPUs worked on something else.", 100*r.Others)
	}

	if len(r.Throughput) > 0 {
		first := r.Throughput[0]
		t.title("Throughput: %d pairs, window %d, batches of %d", first.Pairs, first.Window, first.Batch)
		t.throughput(r.Throughput)
	}
	if r.Singles != nil {
		t.title("One message at a time from %d pairs", r.Singles.Pairs)
		t.throughput([]Throughput{*r.Singles})
	}
	if len(r.Latency) > 0 {
		t.title("Round trip of %d B, %d begun per second at fixed times, µs", r.Latency[0].Payload, r.Latency[0].Rate)
		t.latency(r.Latency)
	}
	if len(r.Memory) > 0 {
		t.title("Idle memory of %d peers", r.Memory[0].Peers)
		t.columns("", "kB/peer", "without files", "before MB", "after MB", "cut", "")
		for _, m := range r.Memory {
			note := "fresh process"
			if !m.Fresh {
				note = "not a fresh process"
			}
			t.columns(plainOrTLS(m.TLS), f1(m.RSSPerPeer), f1(m.AnonPerPeer), f1(mb(m.Before.RSS)), f1(mb(m.After.RSS)), fmt.Sprint(m.Gone), note)
		}
		t.flush()
	}
	if len(r.Connect) > 0 {
		t.title("Connects, authenticated: %d, %d at a time", r.Connect[0].Connects, r.Connect[0].AtOnce)
		t.columns("", "CPU ms", "per second", "rounds: CPU ms")
		for _, c := range r.Connect {
			var rounds []string
			for _, round := range c.Rounds {
				rounds = append(rounds, f3(round.ServerMS))
			}
			t.columns(plainOrTLS(c.TLS), f3(c.ServerMS), f0(c.PerSecond), strings.Join(rounds, " "))
		}
		t.flush()
	}
	if s := r.Stall; s != nil {
		t.title("One receiver does not read for %.0f s; two flows of its sender, %d/s each, %d B; one-way times, µs", s.Seconds, s.Rate, s.Payload)
		t.flows([]flowRow{
			{"same sender's other flow, before", s.OtherBefore, ""},
			{"  during", s.OtherDuring, fmt.Sprintf("p99 %.2f×, lost %d", s.OtherRatio, s.OtherLost)},
			{"unrelated pair, before", s.UnrelatedBefore, ""},
			{"  during", s.UnrelatedDuring, fmt.Sprintf("p99 %.2f×, lost %d", s.UnrelatedRatio, s.UnrelatedLost)},
		})
		t.line("to the stalled receiver %d sent, %d dropped; server memory %+.1f MB", s.StalledSent, s.StalledLost, mb(s.MemoryMore))
	}
	if r.Absent != nil {
		t.absent(r.Absent, "")
	}
	if r.Pods != nil {
		t.pods(r.Pods)
	}
	for i, f := range r.Failed {
		if i == 0 {
			t.title("Failed")
		}
		t.line("%s: %s", f.Section, f.Reason)
	}
	t.line("\ntook %.0f s", r.Seconds)
	return t.w.Flush()
}

// table writes aligned columns: text to the left, figures to the right.
type table struct {
	w    *bufio.Writer
	rows [][]string
}

func (t *table) line(format string, args ...any) { fmt.Fprintf(t.w, format+"\n", args...) }

func (t *table) title(format string, args ...any) { t.line("\n"+format, args...) }

// columns adds a row; the first cell and the last are text.
func (t *table) columns(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) flush() {
	// tabwriter aligns all columns to one side: the first is padded here.
	wide := 0
	for _, row := range t.rows {
		wide = max(wide, len([]rune(row[0])))
	}
	tw := tabwriter.NewWriter(t.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	for _, row := range t.rows {
		fmt.Fprintf(tw, "  %-*s\t%s\t  %s\n", wide, row[0], strings.Join(row[1:len(row)-1], "\t"), row[len(row)-1])
	}
	tw.Flush()
	t.rows = nil
}

func (t *table) throughput(rows []Throughput) {
	t.columns("payload", "messages/s", "CPU µs", "copier µs", "ratio", "lost", "generator µs", "ratio of each round")
	for _, row := range rows {
		var lost uint64
		for _, r := range row.Relay {
			lost += r.Lost
		}
		generator := compare(row.Relay, nil, func(r ThroughputRound) float64 { return r.GeneratorUS }).Relay
		t.columns(fmt.Sprintf("%d B", row.Payload), f0(row.Rate.Relay), f2(row.CPU.Relay), f2(row.CPU.Copier),
			times(row.CPU.Ratio), fmt.Sprint(lost), f2(generator), ratios(row.CPU.Rounds))
	}
	t.flush()
}

func (t *table) latency(rows []Latency) {
	t.columns("", "p50", "copier", "ratio", "p99", "copier", "ratio", "p999", "copier", "lost", "p99 ratio of each round")
	for _, row := range rows {
		var lost uint64
		for _, r := range row.Relay {
			lost += r.Lost
		}
		t.columns(row.Name, f0(row.P50.Relay), f0(row.P50.Copier), times(row.P50.Ratio),
			f0(row.P99.Relay), f0(row.P99.Copier), times(row.P99.Ratio),
			f0(row.P999.Relay), f0(row.P999.Copier), fmt.Sprint(lost), ratios(row.P99.Rounds))
	}
	t.flush()
}

type flowRow struct {
	name string
	FlowFigures
	note string
}

func (t *table) flows(rows []flowRow) {
	t.columns("", "messages", "p50", "p99", "p999", "max", "longest gap", "")
	for _, r := range rows {
		t.columns(r.name, fmt.Sprint(r.Messages), f0(r.P50), f0(r.P99), f0(r.P999), f0(r.Max), f0(r.Gap), r.note)
	}
	t.flush()
}

func (t *table) absent(a *Absent, where string) {
	t.title("%s%d messages/s to %d absent peers beside %d/s to a present one, %d B; one-way times, µs", where, a.AbsentRate, a.AbsentPeers, a.OrdinaryRate, a.Payload)
	t.flows([]flowRow{
		{"ordinary flow, alone", a.Before, ""},
		{"  beside absent peers", a.During, fmt.Sprintf("p99 %.2f×, lost %d", a.Ratio, a.Lost)},
	})
	t.line("%d sent to absent peers, %.2f µs of CPU each", a.AbsentSent, a.ServerUS)
}

// pods writes what the section of the same name found.
func (t *table) pods(p *Pods) {
	t.title("Between %d pods, beside one of them; CPU is that of all pods", p.Pods)
	t.columns("payload", "messages/s", "same pod", "CPU µs", "same pod", "ratio", "lost", "ratio of each round")
	for _, row := range append(slices.Clone(p.Throughput), p.Singles) {
		var lost uint64
		for _, round := range row.Cross {
			lost += round.Lost
		}
		name := fmt.Sprintf("%d B", row.Payload)
		if row.Window == 1 {
			name = fmt.Sprintf("one of %d B at a time, %d pairs", row.Payload, row.Pairs)
		}
		t.columns(name, f0(row.Rate.Cross), f0(row.Rate.Same), f2(row.CPU.Cross), f2(row.CPU.Same), times(row.CPU.Ratio), fmt.Sprint(lost), ratios(row.CPU.Rounds))
	}
	t.flush()
	t.title("Round trip of %d B between pods, %d begun per second, µs", p.Latency.Payload, p.Latency.Rate)
	t.columns("", "p50", "same pod", "ratio", "p99", "same pod", "ratio", "p50 ratio of each round")
	t.columns("idle", f0(p.Latency.P50.Cross), f0(p.Latency.P50.Same), times(p.Latency.P50.Ratio),
		f0(p.Latency.P99.Cross), f0(p.Latency.P99.Same), times(p.Latency.P99.Ratio), ratios(p.Latency.P50.Rounds))
	t.flush()
	t.title("First message to each of %d peers on another pod; one-way times, µs", p.First.Peers)
	t.columns("", "p50", "p99", "")
	t.columns("first", f0(p.First.FirstP50), f0(p.First.FirstP99), fmt.Sprintf("p50 %+.0f, lost %d", p.First.FirstP50-p.First.LaterP50, p.First.Lost))
	t.columns("later", f0(p.First.LaterP50), f0(p.First.LaterP99), "")
	t.flush()
	t.absent(p.Absent, "Between pods: ")
	t.title("A peer moves from pod to pod under %d messages/s", moveRate)
	t.columns("", "moves", "sent", "lost", "sent after and lost", "came on the old", "gap p50 µs", "max µs", "")
	for _, m := range p.Moves {
		t.columns(m.Name, fmt.Sprint(m.Moves), fmt.Sprint(m.Sent), fmt.Sprint(m.Lost), fmt.Sprint(m.LostAfter), fmt.Sprint(m.OnOld), f0(m.GapP50), f0(m.GapMax), "")
	}
	t.flush()
}

func plainOrTLS(tls bool) string {
	if tls {
		return "TLS"
	}
	return "plain"
}

func mb(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// figure writes v, or a dash for what was not measured.
func figure(format string, v float64) string {
	if v == 0 {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

func f0(v float64) string    { return figure("%.0f", v) }
func f1(v float64) string    { return figure("%.1f", v) }
func f2(v float64) string    { return figure("%.2f", v) }
func f3(v float64) string    { return figure("%.3f", v) }
func times(v float64) string { return figure("%.2f×", v) }

func ratios(v []float64) string {
	var words []string
	for _, r := range v {
		words = append(words, f2(r))
	}
	return strings.Join(words, " ")
}

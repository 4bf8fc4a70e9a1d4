package dirtest

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Check says how much is checked while a run goes on. What holds once
// everything has settled is always checked.
type Check string

const (
	// Calm: only clients act. The directory has 250 ms to know what they did.
	Calm Check = "calm"
	// Rough: links and pods fail too, for less than the grace. It has a second:
	// time to notice, grace, repair.
	Rough Check = "rough"
	// Settled: partitions that outlast the grace, or pods that never link. Only
	// wrong closings are checked meanwhile.
	Settled Check = "settled"
)

// Script is one run: a cluster, what is left to chance, and what happens.
type Script struct {
	Comment []string // lines, without the #

	Pods     int // started at 0, named a, b, c…
	Homes    int // for each name
	Seed     uint64
	Check    Check
	MinDelay int64 // of a link, one way, µs
	MaxDelay int64
	Notice   int64 // longest time for one end to notice that a connection is dead, µs
	Skew     int64 // wall clocks are wrong by up to this, µs
	Drift    int64 // monotonic clocks by up to this, in millionths
	Sync     int   // entries placed at once at most
	Pace     int64 // longest pause before each piece of placing, µs
	Stale    int64 // how old news of a peer that is away may be, µs; 0: what Check says
	Gather   int64 // a frame of entries may wait so long for more, µs

	Peers  []PeerDecl
	Sets   []Setting
	Severe [][2]string // pairs of pods that can never link

	Ops []Op
}

// PeerDecl gives a peer or group a name whose homes are these pods, best first,
// while all pods of the script are there.
type PeerDecl struct {
	Name  string
	Homes []string
}

// Setting fixes what would be drawn: "delay a b 3" (one way from a to b, ms),
// "notice a b 50" (a notices a dead connection with b after so many ms), "skew
// a -20000" (a's wall clock, ms).
type Setting struct {
	What  string
	Args  []string
	Value int64 // µs
}

// Op is one operation.
type Op struct {
	At   int64 // µs
	Verb string
	Args []string
}

// verbs lists the operations with the least and most arguments of each.
var verbs = map[string][2]int{
	"connect": {2, 9}, // peer pod [group…]: a fresh connection; older ones elsewhere stay, half open
	"close":   {2, 2}, // peer pod: the peer's connection there ends
	"drain":   {2, 2}, // peer pod: it closes the peer, which is away until it is back somewhere
	"visit":   {2, 2}, // peer pod: a connection there came and went before the directory heard of it
	"sub":     {2, 3}, // pod name [who]: a local peer subscribes
	"unsub":   {2, 3}, // pod name [who]
	"lookup":  {2, 2}, // pod name
	"send":    {2, 2}, // pod or peer, peer: a message
	"hello":   {2, 2}, // pod clock: another pod says HELLO with that cluster clock, in µs, and leaves
	"reset":   {2, 3}, // pod pod [lossy|late]: their connections die
	"cut":     {2, 3}, // pod pod [oneway]: nothing passes any more
	"heal":    {2, 2}, // pod pod: everything passes again
	"crash":   {1, 1}, // pod: its process is killed; the others get a reset
	"power":   {1, 1}, // pod: it is gone; the others hear nothing
	"stop":    {1, 1}, // pod: it closes its connections and leaves
	"start":   {1, 1}, // pod: a new process, at the same address as the last
}

func newScript() *Script {
	return &Script{
		Pods: 3, Homes: 2, Seed: 1, Check: Calm,
		MinDelay: 1000, MaxDelay: 24000, Notice: 280_000, Sync: 8, Pace: 2000,
	}
}

// ParseScript reads a script as [Script.WriteTo] writes it.
func ParseScript(text string) (*Script, error) {
	s := newScript()
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if comment, ok := strings.CutPrefix(line, "#"); ok {
			if len(s.Ops) == 0 {
				s.Comment = append(s.Comment, strings.TrimPrefix(comment, " "))
			}
			continue
		}
		if line == "" {
			continue
		}
		if err := s.parseLine(strings.Fields(line)); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	slices.SortStableFunc(s.Ops, func(a, b Op) int { return int(a.At - b.At) })
	return s, nil
}

func (s *Script) parseLine(words []string) (err error) {
	if words[0][0] >= '0' && words[0][0] <= '9' {
		return s.parseOp(words)
	}
	if len(words) < 2 {
		return fmt.Errorf("%q without a value", words[0])
	}
	args := words[1:]
	number := func(i int) (n int64) {
		if i >= len(args) {
			err = fmt.Errorf("%q with too little", words[0])
			return 0
		}
		f, e := strconv.ParseInt(args[i], 10, 64)
		if e != nil {
			err = e
		}
		return f
	}
	switch words[0] {
	case "pods":
		s.Pods = int(number(0))
	case "homes":
		s.Homes = int(number(0))
	case "seed":
		s.Seed, err = strconv.ParseUint(args[0], 10, 64)
	case "check":
		s.Check = Check(args[0])
	case "delays":
		s.MinDelay, s.MaxDelay = number(0)*1000, number(1)*1000
	case "notices":
		s.Notice = number(0) * 1000
	case "skews":
		s.Skew = number(0) * 1000
	case "drift":
		s.Drift = number(0)
	case "stale":
		s.Stale = number(0) * 1000
	case "gather":
		s.Gather = number(0) * 1000
	case "sync":
		s.Sync = int(number(0))
	case "pace":
		s.Pace = number(0) * 1000
	case "name":
		s.Peers = append(s.Peers, PeerDecl{args[0], args[1:]})
	case "severed":
		if len(args) != 2 {
			return fmt.Errorf("severed wants two pods")
		}
		s.Severe = append(s.Severe, [2]string{args[0], args[1]})
	case "delay", "notice", "skew":
		last := len(args) - 1
		us, e := parseMillis(args[last])
		if e != nil {
			return e
		}
		s.Sets = append(s.Sets, Setting{words[0], args[:last], us})
	default:
		return fmt.Errorf("no such setting: %q", words[0])
	}
	return err
}

func (s *Script) parseOp(words []string) error {
	at, err := parseMillis(words[0])
	if err != nil {
		return err
	}
	if len(words) < 2 {
		return fmt.Errorf("a time without an operation")
	}
	n, ok := verbs[words[1]]
	if args := len(words) - 2; !ok || args < n[0] || args > n[1] {
		return fmt.Errorf("no such operation: %q", strings.Join(words[1:], " "))
	}
	s.Ops = append(s.Ops, Op{at, words[1], words[2:]})
	return nil
}

// parseMillis returns a time in ms, with up to three decimals, in µs.
func parseMillis(text string) (int64, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f > 1e9 || f < -1e9 {
		return 0, fmt.Errorf("not a time in ms: %q", text)
	}
	if f < 0 {
		return int64(f*1000 - 0.5), nil
	}
	return int64(f*1000 + 0.5), nil
}

func millis(us int64) string { return strconv.FormatFloat(float64(us)/1000, 'f', -1, 64) }

// WriteTo writes the script as [ParseScript] reads it.
func (s *Script) WriteTo(w io.Writer) (int64, error) {
	var b strings.Builder
	for _, c := range s.Comment {
		b.WriteString(strings.TrimRight("# "+c, " ") + "\n")
	}
	def := newScript()
	fmt.Fprintf(&b, "pods %d\n", s.Pods)
	if s.Homes != def.Homes {
		fmt.Fprintf(&b, "homes %d\n", s.Homes)
	}
	fmt.Fprintf(&b, "seed %d\ncheck %s\n", s.Seed, s.Check)
	if s.MinDelay != def.MinDelay || s.MaxDelay != def.MaxDelay {
		fmt.Fprintf(&b, "delays %d %d\n", s.MinDelay/1000, s.MaxDelay/1000)
	}
	if s.Notice != def.Notice {
		fmt.Fprintf(&b, "notices %d\n", s.Notice/1000)
	}
	if s.Skew != 0 {
		fmt.Fprintf(&b, "skews %d\n", s.Skew/1000)
	}
	if s.Drift != 0 {
		fmt.Fprintf(&b, "drift %d\n", s.Drift)
	}
	if s.Stale != 0 {
		fmt.Fprintf(&b, "stale %d\n", s.Stale/1000)
	}
	if s.Gather != 0 {
		fmt.Fprintf(&b, "gather %d\n", s.Gather/1000)
	}
	if s.Sync != def.Sync {
		fmt.Fprintf(&b, "sync %d\n", s.Sync)
	}
	if s.Pace != def.Pace {
		fmt.Fprintf(&b, "pace %d\n", s.Pace/1000)
	}
	for _, p := range s.Peers {
		fmt.Fprintf(&b, "name %s %s\n", p.Name, strings.Join(p.Homes, " "))
	}
	for _, p := range s.Severe {
		fmt.Fprintf(&b, "severed %s %s\n", p[0], p[1])
	}
	for _, x := range s.Sets {
		fmt.Fprintf(&b, "%s %s %s\n", x.What, strings.Join(x.Args, " "), millis(x.Value))
	}
	for _, op := range s.Ops {
		fmt.Fprintf(&b, "%s %s %s\n", millis(op.At), op.Verb, strings.Join(op.Args, " "))
	}
	n, err := io.WriteString(w, b.String())
	return int64(n), err
}

// String returns the script as text.
func (s *Script) String() string {
	var b strings.Builder
	_, _ = s.WriteTo(&b)
	return b.String()
}

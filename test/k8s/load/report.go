package load

import (
	"fmt"
	"time"
)

// The kinds of peers.
const (
	Ours    = "our client"
	NetBird = "NetBird's library"
)

// maxLosses bounds the list of losses in a report.
const maxLosses = 200

// maxTurned bounds the list of reordered messages of a flow.
const maxTurned = 5

// Report is the figures of each kind of peers.
type Report map[string]*Figures

// Figures are what became of the messages between the peers of one kind.
type Figures struct {
	Peers      int
	Sent       int // messages that a peer sent while it had a connection of its own
	Lost       int // of them, those that never came
	Refused    int // of those, the ones the sender was told that its partner is offline for
	NotSent    int // messages due while the sender itself had no connection; in no other figure
	Reordered  int
	Duplicated int
	Gap        time.Duration // the longest time in which a peer got nothing
	Reconnects int           // connections after the first
	Most       int           // the most of them of one peer
	Offline    int           // offline notices about peers that had not left
	Online     int           // notices that they are back
	Losses     []Loss        // the first few
	Turned     []Loss        // reordered ones, the first few; Til is when they came
}

// Loss is messages in a row that did not come.
type Loss struct {
	Flow       string
	Messages   int
	First, Til time.Time // when the first and the last were sent
}

func (l Loss) String() string {
	return fmt.Sprintf("%s: %d sent from %s to %s", l.Flow, l.Messages, l.First.Format("15:04:05.000"), l.Til.Format("15:04:05.000"))
}

// Add adds the figures of other peers.
func (r Report) Add(other Report) {
	for kind, o := range other {
		f := r[kind]
		if f == nil {
			f = new(Figures)
			r[kind] = f
		}
		f.Peers += o.Peers
		f.Sent += o.Sent
		f.Lost += o.Lost
		f.Refused += o.Refused
		f.NotSent += o.NotSent
		f.Reordered += o.Reordered
		f.Duplicated += o.Duplicated
		f.Gap = max(f.Gap, o.Gap)
		f.Reconnects += o.Reconnects
		f.Most = max(f.Most, o.Most)
		f.Offline += o.Offline
		f.Online += o.Online
		f.Losses = append(f.Losses, o.Losses...)
		f.Turned = append(f.Turned, o.Turned...)
	}
}

package link

import (
	"errors"
	"io"
	"sync"

	"github.com/crosspod/crosspod/cluster/internal/wire"
)

// entriesLent is the capacity of the lists that entries are parsed into.
const entriesLent = 512

var entryLists = sync.Pool{New: func() any {
	list := make([]wire.Entry, 0, entriesLent)
	return &list
}}

// readLoop hands over what comes until the connection ends. It waits for nothing
// but its own socket, and not at all with a batch in hand.
func (l *Link) readLoop() error {
	for {
		handled, err := l.parse()
		if handled {
			l.cfg.Handler.BatchEnd()
		}
		if err != nil {
			return err
		}
		err = l.in.Fill()
		if l.records.Pending() {
			l.start(l.own.Mark(dueRecords)) // TLS has answered a key update
		}
		if errors.Is(err, io.EOF) && (len(l.in.Bytes()) > 0 || l.skip > 0) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
}

// parse hands over every whole frame at hand and reports whether there was one.
func (l *Link) parse() (handled bool, err error) {
	read := l.read.Load()
	defer func() { l.read.Store(read) }()
	for {
		b := l.in.Bytes()
		if l.skip > 0 {
			n := min(l.skip, len(b))
			l.in.Skip(n)
			if l.skip -= n; l.skip > 0 {
				return handled, nil
			}
			continue
		}
		if len(b) < wire.HeaderSize {
			return handled, nil
		}
		t, size, err := wire.ParseHeader(b)
		if err != nil {
			return handled, err
		}
		size += wire.HeaderSize
		if !t.Known() {
			l.skip = size
			continue
		}
		if len(b) < size {
			return handled, nil
		}
		l.in.Skip(size)
		handled = true
		payload := b[wire.HeaderSize:size:size]
		if t != wire.TypeForward && t != wire.TypeBounce {
			l.read.Store(read) // an answer may count it
			if err := l.other(t, payload); err != nil {
				return handled, err
			}
			continue
		}
		d, err := wire.ParseData(t, payload)
		if err != nil {
			return handled, err
		}
		read++
		if t == wire.TypeForward {
			l.cfg.Handler.Forward(d.Destination, d.Epoch, d.Flags, d.Message)
		} else {
			l.cfg.Handler.Bounce(d.Destination, d.Epoch, d.Flags, d.Message)
		}
	}
}

// other handles a frame that is not data.
func (l *Link) other(t wire.Type, payload []byte) error {
	l.mu.Lock()
	draining := l.draining
	l.mu.Unlock()
	if draining && t != wire.TypeTally {
		return nil // another link speaks for the pod
	}
	switch t {
	case wire.TypePing:
		p, err := wire.ParsePing(payload)
		if err != nil {
			return err
		}
		l.pinged(p)
		return nil
	case wire.TypePong:
		p, err := wire.ParsePong(payload)
		if err != nil {
			return err
		}
		l.ponged(p)
		return nil
	case wire.TypeHello, wire.TypeProof:
		return ErrHandshakeFrame
	case wire.TypeUse, wire.TypeGoodbye, wire.TypeTally, wire.TypeComplaint, wire.TypeTokens, wire.TypeAbout, wire.TypeLoad, wire.TypeMoved:
		return l.cfg.Handler.Control(t, payload)
	}
	list := entryLists.Get().(*[]wire.Entry)
	defer entryLists.Put(list) // as it was, also when the entries needed more room
	entries, err := wire.ParseEntries((*list)[:0], t, payload)
	if err != nil {
		return err
	}
	return l.cfg.Handler.Entries(entries)
}

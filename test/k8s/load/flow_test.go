package load

import (
	"context"
	"encoding/binary"
	"reflect"
	"testing"
	"testing/synctest"
	"time"
)

// script is a peer whose network loses, repeats and turns round.
type script struct {
	in *flow
	n  uint64
}

func (s *script) send(b []byte) outcome {
	number := s.n
	s.n++
	if number >= 14 && number < 17 {
		return unsent
	}
	if number == 17 {
		return refused
	}
	got := binary.BigEndian.Uint64(b)
	arrive := func(number uint64) { s.in.receive(binary.BigEndian.AppendUint64(nil, number)) }
	switch got {
	case 3, 4: // lost
	case 6: // comes after 7
	case 7:
		arrive(7)
		arrive(6)
	case 9:
		arrive(9)
		arrive(9)
	default:
		arrive(got)
	}
	return sent
}

func (*script) sum(*Figures) {}
func (*script) close()       {}

func TestFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &flow{}
		ctx, cancel := context.WithTimeout(t.Context(), 195*time.Millisecond)
		defer cancel()
		f.run(ctx, 10*time.Millisecond, &script{in: f})
		var got Figures
		f.sum(&got)
		if len(got.Losses) != 1 || got.Losses[0].Messages != 2 {
			t.Errorf("losses %v, want one of two messages", got.Losses)
		}
		got.Losses, got.Turned = nil, nil
		want := Figures{
			Sent: 17, Lost: 3, Refused: 1, NotSent: 3, Reordered: 1, Duplicated: 1,
			Gap: 50 * time.Millisecond, // while the peer could not send
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
}

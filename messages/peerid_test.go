package messages_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/crosspod/crosspod/messages"
)

func TestPeerIDText(t *testing.T) {
	tests := []struct {
		name        string
		id          messages.PeerID
		text, short string
		hashed      bool
	}{
		{"hashed", messages.HashID("alice"), "sha-K9gGyX8OAK8aH8Myj6djqSaXI8jbj6xPk69x2xhtbpA=", "sha-K9gGyX8O", true},
		{"of the relay", messages.PeerID([]byte("gw--" + strings.Repeat("\xff", 32))), "gw--//////////////////////////////////////////8=", "gw--////////", false},
		{"zero", messages.PeerID{}, "????AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "????AAAAAAAA", false},
		{"control bytes", messages.PeerID([]byte("\x1b[\n~" + strings.Repeat("\x00", 32))), "?[?~AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "?[?~AAAAAAAA", false},
		{"edges of printable", messages.PeerID([]byte("\x1f \x7e\x7f" + strings.Repeat("\x00", 32))), "? ~?AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "? ~?AAAAAAAA", false},
		{"nearly hashed", messages.PeerID([]byte("sha_" + strings.Repeat("\x00", 32))), "sha_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "sha_AAAAAAAA", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.id.String(); got != tt.text {
				t.Errorf("String = %q, want %q", got, tt.text)
			}
			if got := fmt.Sprint(tt.id); got != tt.text {
				t.Errorf("printed as %q, want %q", got, tt.text)
			}
			if got := tt.id.LogValue().String(); got != tt.short {
				t.Errorf("LogValue = %q, want %q", got, tt.short)
			}
			if got := tt.id.Hashed(); got != tt.hashed {
				t.Errorf("Hashed = %t, want %t", got, tt.hashed)
			}
		})
	}
}

func TestPeerIDInALog(t *testing.T) {
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, nil)).Info("peer connected", "peer", messages.HashID("alice"))
	if !strings.HasSuffix(out.String(), " peer=sha-K9gGyX8O\n") {
		t.Errorf("logged %q", out.String())
	}
}

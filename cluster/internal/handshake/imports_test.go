package handshake

import (
	"testing"

	"github.com/crosspod/crosspod/internal/deptest"
)

func TestImports(t *testing.T) {
	deptest.OnlyOurs(t,
		"github.com/crosspod/crosspod/cluster/internal/wire",
		"github.com/crosspod/crosspod/internal/netbatch")
	deptest.Never(t, "github.com/crosspod/crosspod/relay", "github.com/crosspod/crosspod/store")
}

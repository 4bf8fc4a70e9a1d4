package directory_test

import (
	"testing"

	"github.com/crosspod/crosspod/internal/deptest"
)

func TestImports(t *testing.T) {
	deptest.OnlyOurs(t, "github.com/crosspod/crosspod/messages", "github.com/crosspod/crosspod/cluster/internal/wire", "github.com/crosspod/crosspod/internal/fifo")
}

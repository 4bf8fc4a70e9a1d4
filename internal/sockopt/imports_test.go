package sockopt

import (
	"testing"

	"github.com/crosspod/crosspod/internal/deptest"
)

func TestImports(t *testing.T) {
	deptest.StdOnly(t)
}

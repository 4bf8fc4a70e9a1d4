package link_test

import (
	"testing"

	"github.com/crosspod/crosspod/internal/deptest"
)

func TestImports(t *testing.T) {
	const module = "github.com/crosspod/crosspod"
	deptest.OnlyOurs(t, module+"/internal", module+"/messages", module+"/cluster/internal/wire")
}

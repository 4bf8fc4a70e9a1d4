package dirtest_test

import (
	"testing"

	"github.com/crosspod/crosspod/internal/deptest"
)

func TestImports(t *testing.T) {
	const module = "github.com/crosspod/crosspod"
	deptest.OnlyOurs(t, module+"/messages", module+"/cluster/internal/wire", module+"/cluster/internal/mesh",
		module+"/cluster/internal/directory", module+"/cluster/internal/routes")
}

package relay_test

import (
	"testing"

	"github.com/crosspod/crosspod/internal/deptest"
)

const module = "github.com/crosspod/crosspod"

func TestImports(t *testing.T) {
	deptest.OnlyOurs(t, module+"/messages", module+"/store", module+"/metrics", module+"/cluster", module+"/relay/listener", module+"/internal")
	deptest.Never(t, module+"/client", module+"/auth", module+"/stream", module+"/tunnel", module+"/admin", module+"/bench")
}

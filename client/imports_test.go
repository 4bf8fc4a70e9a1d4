package client_test

import (
	"testing"

	"github.com/crosspod/crosspod/internal/deptest"
)

func TestImports(t *testing.T) {
	const module = "github.com/crosspod/crosspod/"
	deptest.OnlyOurs(t, module+"messages", module+"auth", module+"internal")
}

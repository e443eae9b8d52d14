package agent

import (
	"os"
	"testing"

	"github.com/specql/specql-ops/internal/lambdadev/lambdatest"
)

func TestMain(m *testing.M) {
	lambdatest.Main()
	os.Exit(m.Run())
}

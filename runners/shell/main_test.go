package shell

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	ShimMain()
	if len(os.Args) > 1 && os.Args[1] == helperArg {
		helper(os.Args[2:])
	}
	os.Exit(m.Run())
}

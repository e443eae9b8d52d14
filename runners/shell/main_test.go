package shell

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMain(m *testing.M) {
	ShimMain()
	if len(os.Args) > 1 && os.Args[1] == helperArg {
		helper(os.Args[2:])
	}
	status := m.Run()
	if path, err := ownCopy(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(status)
}

//go:build linux

package chaos

import (
	"flag"
	"fmt"
	"os"
	"testing"
)

// TestMain lets more scenarios run at once than there are processors: most of
// the time they wait for a lease to run out.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "5")
	var err error
	if workshop, err = os.MkdirTemp("", "specql-chaos-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	status := m.Run()
	os.RemoveAll(workshop)
	os.Exit(status)
}

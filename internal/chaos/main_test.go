//go:build linux

package chaos

import (
	"flag"
	"testing"
)

// TestMain lets more scenarios run at once than there are processors: most of
// the time they wait for a lease to run out.
func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "5")
	m.Run()
}

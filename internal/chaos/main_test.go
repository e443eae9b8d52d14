//go:build linux

package chaos

import (
	"context"
	"flag"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/devdb"
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

// calm is the PostgreSQL of the scenarios that leave the server itself alone.
func calm(t testing.TB) *devdb.Server {
	t.Helper()
	s, err := calmOnce()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var calmOnce = sync.OnceValues(func() (*devdb.Server, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	return devdb.Start(ctx, devdb.Options{})
})

// private starts a PostgreSQL that the scenario may break.
func private(t *testing.T, o devdb.Options) *devdb.Server {
	t.Helper()
	s, err := devdb.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

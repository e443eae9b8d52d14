//go:build linux

package chaos

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/specql/specql-ops/internal/devdb"
)

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

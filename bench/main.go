// Command bench measures the queue on a private PostgreSQL with its default
// settings. Every row is a ratio of two measurements taken in turn within one
// run, against a floor that does no more than it must: machines differ and
// are noisy, ratios are not.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb"
	"github.com/specql/specql-ops/migrations"
)

func main() {
	rounds := flag.Int("rounds", 5, "measurements of each side; the median counts")
	jobs := flag.Int("jobs", 20000, "jobs in each throughput measurement")
	singles := flag.Int("singles", 400, "jobs in each latency measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *rounds, *jobs, *singles); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds, jobs, singles int) error {
	server, err := devdb.Start(ctx, devdb.Options{Durable: true})
	if err != nil {
		return err
	}
	defer server.Stop()
	fmt.Printf("PostgreSQL %s at its defaults, synchronous commit on; median of %d rounds\n\n", server.Version(), rounds)
	for _, slots := range []int{100, 2000} {
		if err := throughput(ctx, server, rounds, jobs, slots); err != nil {
			return err
		}
	}
	return latency(ctx, server, rounds, singles)
}

// database makes a migrated database and returns a connection to it.
func database(ctx context.Context, server *devdb.Server, name string) (string, *pgx.Conn, error) {
	if err := server.CreateDatabase(ctx, name); err != nil {
		return "", nil, err
	}
	url := server.URL(name)
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return "", nil, err
	}
	if _, err := migrations.Apply(ctx, conn, migrations.Options{}); err != nil {
		return "", nil, err
	}
	return url, conn, nil
}

func median[T ~int64 | ~float64](v []T) T {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}

func quantile(v []time.Duration, q float64) time.Duration {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[min(len(s)-1, int(q*float64(len(s))))]
}

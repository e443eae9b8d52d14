// Command bench measures the queue on a private PostgreSQL at its default
// settings, synchronous commit on, and tells which figures are what they
// should be. It ends with status 1 when one is not.
//
// Machines differ and are noisy, so nearly every figure is a ratio: the median
// of some measurements over the median of others that were taken in turn with
// them, in the same run, from copies of the same rows. What the queue is held
// against is a floor that does no more than it must, or River, another Go job
// queue on PostgreSQL, at the settings that suit it best.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/specql/specql-ops/agent"
	"github.com/specql/specql-ops/runners/shell"
)

// benchmark is a group of figures that can be measured alone.
type benchmark struct {
	name, about string
	run         func(context.Context, *lab) error
	apart       bool // measured only where -only names it
}

var benchmarks = []benchmark{
	{"throughput", "no-op jobs drained from a backlog: agent, bare loop, River", throughput, false},
	{"http", "the same with the http runner, against bare loop and bare client together", throughHTTP, false},
	{"httpcall", "CPU of a request through the http runner, against a bare client", httpCalls, false},
	{"latency", "commit to start of single jobs, agent idle", latency, false},
	{"arrivals", "commit to start at 1,000 jobs a second, arriving steadily", arrivals, false},
	{"growth", "the agent beside finished rows, jobs that may not run and an old snapshot", growth, false},
	{"console", "what the console's pages ask, beside finished rows", console, false},
	{"keys", "from a key to what the console writes, through a pseudo-terminal", keys, false},
	{"shell", "a shell job's start to result at full isolation, against os/exec", startOfShellJobs, false},
	{"docker", "single docker jobs, in containers started ahead and made for them", containers, false},
	{"idle", "queries, CPU and memory of both programs without work", idle, false},
	{"migrate", "what an application notices of the migration, beside bare index builds and the obvious way", migrate, true},
}

// sizes say how much is measured; the flags' texts tell more.
type sizes struct {
	rounds     int
	jobs       int // of a drain at 2000 slots
	httpJobs   int // of a drain through the http runner
	singles    int // of a latency measurement
	arrivals   time.Duration
	finished   []int  // rows, for each grown table
	ids        string // a key of idFrom
	crowd      int    // waiting jobs that may not run
	growthJobs int    // of a growth measurement's drain at 2000 slots
	idle       time.Duration

	migrateRows int           // of the table that is migrated
	variants    string        // keys of variants
	fillFor     time.Duration // 0: to its end
	containers  int           // docker jobs of a measurement
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == serveArgument {
		serve()
		return
	}
	shell.ShimMain()
	if os.Getenv("GOGC") == "" { // for all that is measured, peers too
		debug.SetGCPercent(agent.GCPercent)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	chosen, sizes, err := parse(args)
	if err != nil {
		return err
	}
	l, err := newLab(ctx, sizes)
	if err != nil {
		return err
	}
	defer l.close()
	before := load()
	var failed []error
	for _, b := range chosen {
		if err := b.run(ctx, l); err != nil {
			failed = append(failed, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	fmt.Printf("%s at its defaults, synchronous commit on\nmedians of %d rounds, of ratios too%s\n", l.server.Version(), sizes.rounds, before)
	l.table.write(os.Stdout)
	if n := l.table.missed(); n > 0 {
		failed = append(failed, fmt.Errorf("%d figures missed their targets", n))
	}
	return errors.Join(failed...)
}

// load words what others had the machine do before, where that can be read: on
// a busy machine even ratios say little.
func load() string {
	averages, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return ""
	}
	lastMinute, _, _ := strings.Cut(string(averages), " ")
	return fmt.Sprintf("; load of the minute before: %s on %d cores", lastMinute, runtime.NumCPU())
}

func parse(args []string) ([]benchmark, sizes, error) {
	var s sizes
	set := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := set.String("only", "", "measure only these, separated by commas")
	set.IntVar(&s.rounds, "rounds", 3, "measurements of each side; the medians of their figures and of their ratios count")
	set.IntVar(&s.jobs, "jobs", 80_000, fmt.Sprintf("jobs of a drain at 2000 slots, of which there are %d a round; half of them at 100 slots", turnsARound))
	set.IntVar(&s.httpJobs, "http-jobs", 150_000, "jobs of a drain through the http runner")
	set.IntVar(&s.singles, "singles", 300, "single jobs of a latency measurement; a third of them for growth")
	set.DurationVar(&s.arrivals, "arrivals", 5*time.Second, "how long jobs arrive steadily")
	finished := set.String("finished", "100000,1000000", "finished rows of the grown tables, separated by commas")
	set.StringVar(&s.ids, "ids", "default", "ids of the finished rows: random, as applications had them, or ordered by time, as new rows have them")
	set.IntVar(&s.crowd, "crowd", 1_000_000, "waiting jobs that may not run")
	set.IntVar(&s.growthJobs, "growth-jobs", 40_000, "the same of a growth measurement")
	set.DurationVar(&s.idle, "idle", 30*time.Second, "how long an idle program is watched")
	set.IntVar(&s.migrateRows, "migrate-rows", 5_000_000, "jobs of the table that is migrated")
	set.StringVar(&s.variants, "variants", "early,newer", "the tables that the migration starts from")
	set.DurationVar(&s.fillFor, "fill-for", 0, "watch the migration's back-fill for so long only (0: to its end)")
	set.IntVar(&s.containers, "containers", 15, "docker jobs of a measurement")
	full := set.Bool("full", false, "a grown table of 5,000,000 finished rows too; it takes some minutes to make")
	set.Usage = func() { help(set) }
	if err := set.Parse(args); err != nil {
		return nil, s, err
	}
	for word := range strings.SplitSeq(*finished, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 {
			return nil, s, fmt.Errorf("-finished: %q is not a number of rows", word)
		}
		s.finished = append(s.finished, n)
	}
	if *full {
		s.finished = append(s.finished, 5_000_000)
	}
	if _, ok := idFrom[s.ids]; !ok {
		return nil, s, fmt.Errorf("-ids: %q is neither default nor ordered", s.ids)
	}
	chosen, err := choose(*only)
	return chosen, s, err
}

// choose finds the benchmarks of the names, all when there are none.
func choose(only string) ([]benchmark, error) {
	if only == "" {
		return slices.DeleteFunc(slices.Clone(benchmarks), func(b benchmark) bool { return b.apart }), nil
	}
	var chosen []benchmark
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(benchmarks, func(b benchmark) bool { return b.name == name })
		if i < 0 {
			return nil, fmt.Errorf("-only: there is no %q: see -help", name)
		}
		chosen = append(chosen, benchmarks[i])
	}
	return chosen, nil
}

func help(set *flag.FlagSet) {
	w := set.Output()
	fmt.Fprint(w, "bench measures the queue on a private PostgreSQL: go run . [flags]\n\nWhat -only chooses from:\n")
	for _, b := range benchmarks {
		fmt.Fprintf(w, "  %-12s %s\n", b.name, b.about)
	}
	fmt.Fprint(w, "\nFlags:\n")
	set.PrintDefaults()
}

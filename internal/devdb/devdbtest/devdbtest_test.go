//go:build unix

package devdbtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb"
)

// sample is about the size of an application's schema.
func sample(content string, built *atomic.Int32) Template {
	return Template{Name: "sample", Content: content, Build: func(ctx context.Context, url string) error {
		if built != nil {
			built.Add(1)
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		for i := range 20 {
			sql := fmt.Sprintf("CREATE TABLE t%d (id int PRIMARY KEY, note text NOT NULL); INSERT INTO t%d SELECT n, 'x' FROM generate_series(1, 100) n", i, i)
			if _, err := conn.Exec(ctx, sql); err != nil {
				return err
			}
		}
		return nil
	}}
}

func value[T any](t testing.TB, url, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestFiftyDatabasesComeFromOneBuiltTemplate(t *testing.T) {
	var built atomic.Int32
	tpl := sample(t.Name(), &built)
	first := New(t, tpl) // builds it
	const count = 50
	urls := map[string]bool{first: true}
	began := time.Now()
	for range count {
		urls[New(t, tpl)] = true
	}
	t.Logf("%.1f ms a database", float64(time.Since(began).Milliseconds())/count)
	if len(urls) != count+1 {
		t.Errorf("%d different databases, want %d", len(urls), count+1)
	}
	for url := range urls {
		if n := value[int](t, url, "SELECT count(*)::int FROM t19"); n != 100 {
			t.Errorf("%d rows in the copy, want the template's 100", n)
		}
	}
	if n := built.Load(); n != 1 {
		t.Errorf("the template was built %d times", n)
	}
}

func TestDatabaseGoesWithItsTestThoughConnected(t *testing.T) {
	var name string
	t.Run("inner", func(t *testing.T) {
		url := New(t, Template{})
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		name = conn.Config().Database // left connected on purpose
		t.Cleanup(func() { go conn.Close(context.Background()) })
		if !strings.Contains(name, "inner") {
			t.Errorf("database %s does not name its test", name)
		}
	})
	sql := "SELECT count(*)::int FROM pg_database WHERE datname = '" + name + "'"
	if n := value[int](t, Server(t).URL("postgres"), sql); n != 0 {
		t.Errorf("database %s is still there", name)
	}
}

func TestDatabasesAreSeparate(t *testing.T) {
	tpl := sample(t.Name(), nil)
	a, b := New(t, tpl), New(t, tpl)
	value[int](t, a, "WITH gone AS (DELETE FROM t0 RETURNING 1) SELECT count(*)::int FROM gone")
	if n := value[int](t, b, "SELECT count(*)::int FROM t0"); n != 100 {
		t.Errorf("%d rows in the other database, want 100", n)
	}
}

func TestChangedContentBuildsAnotherTemplate(t *testing.T) {
	var built atomic.Int32
	New(t, sample(t.Name()+"1", &built))
	New(t, sample(t.Name()+"2", &built))
	if n := built.Load(); n != 2 {
		t.Errorf("%d builds for two contents", n)
	}
}

func TestFailedBuildIsReportedAndBuiltAgain(t *testing.T) {
	var built atomic.Int32
	tpl := sample(t.Name(), &built)
	whole, broken := tpl, errors.New("broken")
	tpl.Build = func(ctx context.Context, url string) error {
		return errors.Join(whole.Build(ctx, url), broken)
	}
	if err := tpl.ensure(t.Context(), Server(t)); !errors.Is(err, broken) {
		t.Fatalf("error %v, want the build's", err)
	}
	url := New(t, whole)
	if n := value[int](t, url, "SELECT count(*)::int FROM t0"); n != 100 || built.Load() != 2 {
		t.Errorf("%d rows after %d builds", n, built.Load())
	}
}

// The environment variable turns this test binary into a second process that
// makes a database of the template that the first one wants too.
const envPeer = "DEVDBTEST_PEER"

func TestMain(m *testing.M) {
	if path := os.Getenv(envPeer); path != "" {
		os.Exit(peer(path))
	}
	os.Exit(m.Run())
}

func peer(record string) int {
	s, err := server()
	if err != nil {
		fmt.Println(err)
		return 1
	}
	tpl := sample("peers", nil)
	fill := tpl.Build
	tpl.Build = func(ctx context.Context, url string) error {
		f, err := os.OpenFile(record, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteString("built\n"); err != nil {
			return err
		}
		return fill(ctx, url)
	}
	if err := tpl.ensure(context.Background(), s); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func TestProcessesShareOneServerAndBuildATemplateOnce(t *testing.T) {
	Server(t) // so that it outlives the peers
	record := filepath.Join(t.TempDir(), "record")
	var wait sync.WaitGroup
	for range 4 {
		wait.Go(func() {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), envPeer+"="+record)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("peer: %v\n%s", err, out)
			}
		})
	}
	wait.Wait()
	text, err := os.ReadFile(record)
	if err != nil || string(text) != "built\n" {
		t.Errorf("builds recorded: %q, %v; want exactly one", text, err)
	}
}

// failing is a testing.TB that keeps the message of Fatalf.
type failing struct {
	testing.TB
	message string
}

func (f *failing) Helper() {}
func (f *failing) Fatalf(format string, args ...any) {
	f.message = fmt.Sprintf(format, args...)
	panic(f)
}

func TestWithoutPostgresTheTestFailsAndSaysHowToGetIt(t *testing.T) {
	real := server
	defer func() { server = real }()
	server = func() (*devdb.Server, error) {
		return nil, &devdb.NotFoundError{Problem: "no PostgreSQL", Remedy: "run `scripts/setup`"}
	}
	f := &failing{TB: t}
	func() {
		defer func() { recover() }()
		New(f, Template{})
	}()
	if !strings.Contains(f.message, "scripts/setup") {
		t.Errorf("message %q does not say how to get PostgreSQL", f.message)
	}
}

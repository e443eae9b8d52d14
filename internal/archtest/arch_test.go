package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestEachLayerImportsOnlyThoseBelowIt(t *testing.T) {
	files := sources(t)
	seen := map[string]bool{}
	for _, f := range files {
		seen[strings.Split(f.folder, "/")[0]] = true
		for _, spec := range f.syntax.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatalf("%s: %v", f.name, err)
			}
			for _, fault := range importFaults(f.folder, path) {
				t.Errorf("%s: %s", f.position(spec), fault)
			}
		}
	}
	// A walk that sees nothing would keep every promise.
	for _, layer := range []string{"jobs", "registry", "runners", "ops"} {
		if !seen[layer] {
			t.Errorf("no source was read in %s/: does the test still look in the right place?", layer)
		}
	}
}

func TestTheConsoleSendsNoSQL(t *testing.T) {
	for _, f := range sources(t) {
		if !within(f.folder, "tui") {
			continue
		}
		ast.Inspect(f.syntax, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok && asksDatabase(call) {
				t.Errorf("%s: the console asks the database itself: give ops a function for it", f.position(call))
			}
			return true
		})
	}
}

func TestRulesRefuseWhatTheyShould(t *testing.T) {
	cases := []struct {
		folder, path string
		refused      bool
	}{
		{"jobs", module + "/registry", true},
		{"jobs", "github.com/jackc/pgx/v5", false},
		{"registry", module + "/jobs", false},
		{"registry", module + "/runners", true},
		{"registry", "github.com/jackc/pgx/v5/pgxpool", true},
		{"workflow", "database/sql", true},
		{"runners/shell", module + "/runners", false},
		{"runners/shell", module + "/runners/docker", false},
		{"runners/shell", module + "/agent", true},
		{"runners/httpapi", "github.com/jackc/pgx/v5", true},
		{"agent", module + "/runners/shell", false},
		{"agent", module + "/ops", true},
		{"agent", module + "/tui", true},
		{"ops", module + "/migrations", false},
		{"ops", module + "/runners", true},
		{"ops", module + "/agent", true},
		{"tui/parts", module + "/ops", false},
		{"tui/parts", module + "/migrations", true},
		{"tui", "github.com/jackc/pgx/v5/pgxpool", false},
		{"tui", "github.com/jackc/pgx/v5", true},
		{"cmd/specql-agent", module + "/agent", false},
		{"internal/devdb", module + "/jobs", true},
		{"internal/devdb/devdbtest", module + "/internal/devdb", false},
		{"internal/demo", module + "/agent", false},
		{"internal/demo", module + "/cmd/specql-tui", true},
		{"jobsmith", module + "/jobs", true},
		{"newcomer", "fmt", false},
	}
	for _, c := range cases {
		if got := importFaults(c.folder, c.path); (len(got) > 0) != c.refused {
			t.Errorf("%s importing %s: refused is %v, want %v (%v)", c.folder, c.path, len(got) > 0, c.refused, got)
		}
	}
}

func TestSQLCallsAreToldFromOthers(t *testing.T) {
	cases := map[string]bool{
		`pool.Query(ctx, "SELECT 1")`:                        true,
		`m.pool.QueryRow(m.ctx, "SELECT 1")`:                 true,
		`pool.Exec(context.Background(), "DELETE FROM x")`:   true,
		`pool.Begin(reqCtx)`:                                 true,
		`pool.Exec(t.Context(), "SELECT 1")`:                 true,
		`address.Query()`:                                    false,
		`tea.Exec(command, done)`:                            false,
		`ops.ListJobs(ctx, pool, filter, page)`:              false,
		`sema.Acquire(1)`:                                    false,
		`values.Query("a")`:                                  false,
		`exec.CommandContext(ctx, "less").Run()`:             false,
		`Query(ctx)`:                                         false,
		`pool.CopyFrom(ctx, table, columns, pgx.CopyFrom())`: true,
	}
	for source, want := range cases {
		expr, err := parser.ParseExpr(source)
		if err != nil {
			t.Fatalf("%s: %v", source, err)
		}
		if got := asksDatabase(expr.(*ast.CallExpr)); got != want {
			t.Errorf("%s: taken for SQL is %v, want %v", source, got, want)
		}
	}
}

// file is one source file of the product; tests are left out, since they may
// set a layer up with whatever they need.
type file struct {
	name   string // from the module's root
	folder string // likewise, with slashes
	set    *token.FileSet
	syntax *ast.File
}

func (f file) position(n ast.Node) string {
	return f.name + ":" + strconv.Itoa(f.set.Position(n.Pos()).Line)
}

// sources parses every Go file of the module, whatever its platform.
func sources(t *testing.T) []file {
	t.Helper()
	root := moduleRoot(t)
	set := token.NewFileSet()
	var files []file
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			hidden := strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
			if path != root && (hidden || slices.Contains([]string{"bin", "dist", "testdata", "vendor"}, name)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		syntax, err := parser.ParseFile(set, path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		relative = filepath.ToSlash(relative)
		folder := strings.TrimSuffix(strings.TrimSuffix(relative, name), "/")
		if strings.HasSuffix(folder, "test") {
			return nil // helpers for tests: devdbtest, runnertest
		}
		files = append(files, file{name: relative, folder: folder, set: set, syntax: syntax})
		return nil
	})
	if err != nil {
		t.Fatalf("read the project's source: %v", err)
	}
	return files
}

// moduleRoot is the folder above this one that holds go.mod.
func moduleRoot(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above this test")
		}
		dir = parent
	}
}

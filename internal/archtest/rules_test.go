package archtest

import (
	"fmt"
	"go/ast"
	"strings"
)

const module = "github.com/specql/specql-ops"

// mayImport says which of the project's folders a folder may import. A folder
// stands for everything below it, and may always import itself. A folder that
// is not listed may import nothing of the project, so that a new one has to
// find its place here first.
var mayImport = map[string][]string{
	"jobs":       {},
	"registry":   {"jobs"},
	"workflow":   {"jobs", "registry"},
	"migrations": {"jobs", "internal/appschema"},

	"migrations/migrationstest": {"migrations", "internal"}, // for tests alone

	"runners":  {"registry", "jobs"},
	"agent":    {"runners", "workflow", "registry", "jobs", "internal"},
	"ops":      {"registry", "migrations", "jobs", "internal"},
	"tui":      {"ops", "jobs", "internal"},
	"cmd":      {"tui", "ops", "agent", "runners", "workflow", "registry", "migrations", "jobs", "internal"},
	"bench":    {"agent", "ops", "runners", "workflow", "registry", "migrations", "jobs", "internal"},
	"examples": {}, // embedded files, for the demo

	// What is internal serves the layers and knows none of them, but for the
	// parts that put a whole system together.
	"internal":       {},
	"internal/chaos": {"migrations", "internal"}, // knows the program and the table, as an operator does
	"internal/demo":  {"agent", "ops", "runners", "workflow", "registry", "migrations", "jobs", "internal", "examples"},
}

// mayQuery says which driver packages a folder may import; a folder that is
// not listed may import any. The console holds a pool to hand it to ops, and
// registry, workflow and the runners know no database at all.
var mayQuery = map[string][]string{
	"tui":      {"github.com/jackc/pgx/v5/pgxpool"},
	"registry": {},
	"workflow": {},
	"runners":  {},
}

var drivers = []string{"github.com/jackc/pgx", "database/sql", "github.com/pressly/goose", "github.com/lib/pq"}

// importFaults are the rules that a file of the folder breaks by importing
// path, worded for whoever broke them.
func importFaults(folder, path string) []string {
	if target, ok := strings.CutPrefix(path, module+"/"); ok {
		return layerFaults(folder, target)
	}
	layer, listed := rule(mayQuery, folder)
	if !listed || !under(path, drivers) {
		return nil
	}
	for _, allowed := range mayQuery[layer] {
		if path == allowed {
			return nil
		}
	}
	return []string{fmt.Sprintf("%s must not import %s: database work belongs to jobs, ops and migrations", layer, path)}
}

func layerFaults(folder, target string) []string {
	layer, listed := rule(mayImport, folder)
	if !listed {
		return []string{fmt.Sprintf("%s imports %s, but has no place among the layers: add it to mayImport", folder, target)}
	}
	if within(target, layer) || under(target, mayImport[layer]) {
		return nil
	}
	return []string{fmt.Sprintf("%s must not import %s: it may import %s", layer, target, words(mayImport[layer]))}
}

// queryMethods send SQL: on a pool, a connection, a transaction or a batch.
var queryMethods = map[string]bool{
	"Query": true, "QueryRow": true, "Exec": true, "SendBatch": true, "CopyFrom": true,
	"Begin": true, "BeginTx": true, "Acquire": true, "AcquireFunc": true,
}

// asksDatabase tells a call that would send SQL: such a method with the
// context as its first argument, written ctx or made on the spot. Bubble Tea's
// tea.Exec and a URL's Query() take none.
func asksDatabase(call *ast.CallExpr) bool {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !queryMethods[method.Sel.Name] || len(call.Args) == 0 {
		return false
	}
	switch arg := call.Args[0].(type) {
	case *ast.Ident:
		return strings.HasSuffix(strings.ToLower(arg.Name), "ctx")
	case *ast.SelectorExpr:
		return strings.HasSuffix(strings.ToLower(arg.Sel.Name), "ctx")
	case *ast.CallExpr:
		made, ok := arg.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		from, ok := made.X.(*ast.Ident)
		return ok && from.Name == "context" || made.Sel.Name == "Context"
	}
	return false
}

// rule finds the entry of the folder or of the nearest one above it.
func rule[V any](rules map[string]V, folder string) (string, bool) {
	for {
		if _, ok := rules[folder]; ok {
			return folder, true
		}
		cut := strings.LastIndexByte(folder, '/')
		if cut < 0 {
			return "", false
		}
		folder = folder[:cut]
	}
}

// within tells whether path is folder or below it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

func under(path string, folders []string) bool {
	for _, folder := range folders {
		if within(path, folder) {
			return true
		}
	}
	return false
}

func words(folders []string) string {
	if len(folders) == 0 {
		return "nothing of the project"
	}
	return strings.Join(folders, ", ")
}

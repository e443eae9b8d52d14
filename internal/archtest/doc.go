// Package archtest keeps the project's layers apart: which folder may import
// which, who may talk to PostgreSQL, and that the console never writes SQL.
// docs/architecture.md says why; the rules themselves stand in rules_test.go.
//
// It holds tests alone. They read the source of every platform and build tag,
// not only what this machine would compile.
package archtest

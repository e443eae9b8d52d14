// Package chaos proves the queue under failures: agents killed and frozen,
// PostgreSQL restarted, crashed, full and out of reach, clocks that are off.
//
// A scenario is a world: a private PostgreSQL, real processes of specql-agent
// on it, and a ledger, the service that every job calls and that writes each
// call down. While jobs come in, the scenario breaks something, over and over.
// In the end one function, the proof, holds the table, the table's history
// and the ledger against each other: every job ended, no result was recorded
// twice, and nothing was started twice but what an agent that lost its lease
// had under way.
//
// The package knows the program and the table, as an operator does. It never
// imports what it tests, and whatever it starts ends with the test process,
// however that ends.
//
// Each scenario has a short form, for every run of the tests, and a long one
// with more jobs and rounds and with the agents' own race detector:
// SPECQL_CHAOS=long.
package chaos

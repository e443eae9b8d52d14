//go:build unix

// Package devdb runs a private PostgreSQL for the demo, tests and benchmarks.
//
// It needs PostgreSQL's server programs and nothing else: no running service,
// no configuration, no superuser. A caller that is root runs the server as an
// unprivileged account, since PostgreSQL refuses root.
//
// # What it promises
//
// A server lives in a folder of its own, listens on a unix socket that only
// its user and root can reach and, with a random password, on one port of
// 127.0.0.1 (and of what Options.Networks names). Nothing outside that folder
// is read or written.
//
// No server and no folder outlives the processes that use it, however they
// end. Every user of a server holds a named pipe in its folder open. The kernel
// closes it when the process ends: after Stop, after a panic, an os.Exit, a
// Ctrl-C or a kill -9. A small shell process, the guard, waits for the end of
// that pipe, then stops the server and removes the folder. Should the guard be
// killed too, as when a whole control group is, the next Start finds the
// folder without a holder and does the same.
//
// # What it never does
//
// It installs no signal handler, signals no process that is not verifiably a
// PostgreSQL on one of its own folders, and keeps no data: what is in such a
// server is gone when it stops.
package devdb

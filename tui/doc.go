// Package tui is the console: a full-screen view of live figures, jobs and
// agents, and the switches of execution types.
//
// It promises that the screen never waits for the database: every question
// is asked beside the screen with a deadline of two seconds, and when the
// database is away the last answer stays, marked stale with its age. It never
// writes SQL, never decides policy, and does nothing that package ops does
// not offer to the commands as well.
package tui

// Package ops holds what an operator does and sees: one function per action
// and per view, with a typed plan and result. The console and the headless
// commands both call it, so they cannot differ. It prints nothing, asks
// nothing and keeps no state; every function takes the database and a context
// with a deadline.
package ops

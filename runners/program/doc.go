// Package program holds what runners of programs share, whatever a program is
// started by: the variables that it gets, the arguments that a job's input
// fills, and what becomes of its two streams.
package program

// Package jobs is the contract with the table jobs.tb_job_run: the words for a
// job's type and status, the queue that claims and finishes rows, the switches
// that hold a type, the live figures and the audit log.
//
// It promises that every change of a job's status is fenced: an attempt that
// lost its lease can never record a result. It knows PostgreSQL and nothing
// else of the project; it never runs a job and never reads the registry.
package jobs

// Package registry reads registry/service_registry.yaml: the one place that
// grants anything to a job.
//
// A file is decoded strictly; every fault is reported at once with its line,
// column and source line, and a file with a fault is never applied. What Load
// returns is an immutable snapshot: a reload makes a new one and a job under
// way keeps its own. The package knows no database and runs nothing.
package registry

// Package examples carries the example registry, its scripts and containers, so that the
// demo runs from the program alone.
package examples

import "embed"

// Files holds registry/service_registry.yaml, scripts/*.sh and the source of
// the programs that run in containers.
//
//go:embed registry/*.yaml scripts/*.sh containers/*/main.go
var Files embed.FS

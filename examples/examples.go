// Package examples carries the example registry and its scripts, so that the
// demo runs from the program alone.
package examples

import "embed"

// Files holds registry/service_registry.yaml and scripts/*.sh.
//
//go:embed registry/*.yaml scripts/*.sh
var Files embed.FS

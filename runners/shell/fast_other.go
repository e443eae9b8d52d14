//go:build linux && !amd64

package shell

import (
	"errors"
	"os"
)

// fastStart is written for amd64; elsewhere every attempt has a shim.
type fastStart struct{}

func newFastStart(*system) (*fastStart, error) {
	return nil, errors.New("the fast start is for amd64 only")
}

func (*fastStart) close()                           {}
func (*fastStart) can(*attempt, *spec, *group) bool { return false }
func (*fastStart) start(*attempt, *spec, *group, [3]*os.File) (*process, error) {
	return nil, errors.New("no fast start")
}

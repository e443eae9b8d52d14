//go:build linux && !amd64

package shell

import "errors"

// fastStart is written for amd64; elsewhere every attempt has a shim.
type fastStart struct{}

func newFastStart(*system) (*fastStart, error) {
	return nil, errors.New("the fast start is for amd64 only")
}

func (*fastStart) close()                               {}
func (*fastStart) dismiss()                             {}
func (*fastStart) can(*attempt, *spec, *hierarchy) bool { return false }
func (*fastStart) launchOf(*attempt, *spec, *hierarchy) (launch, error) {
	return launch{}, errors.New("no fast start")
}

package httpapi

import (
	"testing"

	"github.com/specql/specql-ops/registry"
)

// TestAnIPv6NetworkNeverStandsForMappedAddresses asks the dialer's hook
// itself: net.Dialer writes mapped addresses as IPv4 today, and the policy
// must not rest on that.
func TestAnIPv6NetworkNeverStandsForMappedAddresses(t *testing.T) {
	service := &registry.Service{Name: "s"}
	service.SecurityPolicy.AllowedDomains = []string{"api.example.com"}
	service.SecurityPolicy.AllowedNetworks = []string{"::/0"}
	p, err := newPolicy(service, nil)
	if err != nil {
		t.Fatal(err)
	}
	check := p.control("api.example.com")
	if err := check("tcp6", "[fd00::1]:443", nil); err != nil {
		t.Errorf("a covered address: %v", err)
	}
	for _, address := range []string{"[::ffff:127.0.0.1]:443", "127.0.0.1:443", "not an address"} {
		if check("tcp6", address, nil) == nil {
			t.Errorf("%s is let through", address)
		}
	}
}

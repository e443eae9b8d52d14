package shell

import (
	"testing"
)

func TestFastStartIsToBeHadWhereFullIsolationIs(t *testing.T) {
	r := newRunner(t)
	if r.Host().Isolation != "full" || r.Host().Namespaces != "root" {
		t.Skip("this host gives no full isolation to a privileged agent")
	}
	if r.sys.fast == nil {
		_, err := newFastStart(&r.sys)
		t.Fatalf("every attempt has a shim: %v", err)
	}
}

//go:build linux

package chaos

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ahead is the program on a host whose clock is an hour ahead: built with a
// package time whose Now says so. The clock that timers go by is not touched,
// as on such a host.
var ahead = sync.OnceValues(func() (string, error) { return buildShifted("specql-agent-ahead", time.Hour) })

func buildShifted(name string, by time.Duration) (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("find Go's sources: %w", err)
	}
	original := filepath.Join(strings.TrimSpace(string(root)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		return "", err
	}
	const reads = "\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(text), reads) != 1 {
		return "", fmt.Errorf("%s does not read the clock in the one place where this test looks for it", original)
	}
	shifted := strings.Replace(string(text), reads, fmt.Sprintf("%s\tsec += %d\n", reads, int(by.Seconds())), 1)
	folder, err := filepath.Abs(filepath.Join(workshop, name+".overlay"))
	if err != nil {
		return "", err
	}
	copied, overlay := filepath.Join(folder, "time.go"), filepath.Join(folder, "overlay.json")
	replaced, err := json.Marshal(map[string]any{"Replace": map[string]string{original: copied}})
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.MkdirAll(folder, 0o755), os.WriteFile(copied, []byte(shifted), 0o600),
		os.WriteFile(overlay, replaced, 0o600)); err != nil {
		return "", err
	}
	return build(name, "-overlay", overlay)
}

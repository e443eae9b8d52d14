package runners

import (
	"encoding/json"
	"math"
	"testing"
)

func TestUsageIsNumbersAndLeavesOutWhatMeansNothing(t *testing.T) {
	v, nan := 12.5, math.NaN()
	for want, u := range map[string]Usage{
		`{"duration_seconds":0.000002}`: {DurationSeconds: 2e-6},
		`{"cpu_usage_percent":12.5,"memory_mb":12.5,"peak_memory_mb":12.5,"duration_seconds":1}`: {
			CPUUsagePercent: &v, MemoryMB: &v, PeakMemoryMB: &v, DurationSeconds: 1},
		`{"duration_seconds":3}`: {CPUUsagePercent: &nan, DurationSeconds: 3},
	} {
		got := u.JSON()
		if string(got) != want || !json.Valid(got) {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

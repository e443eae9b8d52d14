package shell

import "testing"

func TestSmoke(t *testing.T) {
	t.Logf("%+v", Probe())
	r := newRunner(t)
	for _, a := range [][]string{{"argv", "a b", "$(x)"}, {"env"}, {"limits"}, {"memory", "64"}, {"cpu", "300"}} {
		call := newCall(t, a...)
		call.Service.SecurityPolicy.ResourceLimits.MemoryMB = 128
		res, err := r.Run(t.Context(), call)
		t.Logf("%s %v %v", res.Output, err, res.Security)
		if res.Usage.PeakMemoryMB != nil {
			t.Logf("peak %v cpu%% %v dur %v", *res.Usage.PeakMemoryMB, *res.Usage.CPUUsagePercent, res.Usage.DurationSeconds)
		}
	}
}

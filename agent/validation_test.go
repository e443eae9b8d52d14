package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

func TestWhatDoesNotFitItsSchemaIsRecordedOrFailsAsTheServiceSays(t *testing.T) {
	w := newWorld(t)
	var text strings.Builder
	text.WriteString("services:\n")
	for _, mode := range []string{"off", "warn", "strict", "answers", "fits"} {
		validation, input, output := mode, "n: string", "id: string"
		switch mode {
		case "answers":
			validation, input = "strict", "n: integer"
		case "fits":
			validation, input, output = "strict", "n: integer", "id: integer"
		}
		fmt.Fprintf(&text, "  - { name: %s, type: t, category: c, validation: \"%s\", runner_config: { base_url: \"http://192.0.2.1\" },\n"+
			"      operations: [{ name: run, input_schema: { %s }, output_schema: { %s } }] }\n", mode, validation, input, output)
	}
	config, diags := registry.Parse("test.yaml", []byte(text.String()), registry.Options{})
	if config == nil {
		t.Fatal(diags.Err())
	}
	var ran, strictRan atomic.Int64
	run := fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
		ran.Add(1)
		if c.Service.Name == "strict" {
			strictRan.Add(1)
		}
		return runners.Result{Output: json.RawMessage(`{"id": 7}`), Security: map[string]any{"held": "kept"}}, nil
	}}
	for _, s := range config.Services {
		w.enqueue(1, s.Name) // its input is {"n": 1}
	}
	a, _ := w.start(Options{Config: config, Runners: []runners.Runner{run}})
	w.until("all have ended", func() bool { return w.count("status IN ('completed', 'failed')") == 5 })

	get := func(service, column string) (text string) {
		w.scan(&text, "SELECT coalesce("+column+", '') FROM jobs.tb_job_run WHERE service_name = $1", service)
		return text
	}
	for service, want := range map[string][4]string{ // status, validation, held, error
		"off":     {"completed", "", "kept", ""},
		"warn":    {"completed", `{"input": ["n is number, not string"], "output": ["id is number, not string"]}`, "kept", ""},
		"strict":  {"failed", `{"input": ["n is number, not string"]}`, "", "input_data does not fit input_schema of operation run of service strict"},
		"answers": {"failed", `{"output": ["id is number, not string"]}`, "kept", "the answer does not fit output_schema"},
		"fits":    {"completed", "", "kept", ""},
	} {
		got := [4]string{get(service, "status"), get(service, "security_context->>'validation'"), get(service, "security_context->>'held'"), get(service, "error_message")}
		if got[0] != want[0] || got[1] != want[1] || got[2] != want[2] || !strings.HasPrefix(got[3], want[3]) || want[3] == "" && got[3] != "" {
			t.Errorf("%s: %q, want %q", service, got, want)
		}
	}
	if n := w.count("status = 'failed' AND attempts < max_attempts AND retry_at IS NOT NULL"); n != 0 {
		t.Errorf("%d of the failed wait for a retry, and none of them can be mended by one", n)
	}
	if strictRan.Load() != 0 || ran.Load() != 4 {
		t.Errorf("the runner ran %d times, %d of them for an input that does not fit", ran.Load(), strictRan.Load())
	}
	if s := a.Stats(); s.UnfitInputs != 2 || s.UnfitOutputs != 2 {
		t.Errorf("counted %d inputs and %d outputs, want 2 and 2", s.UnfitInputs, s.UnfitOutputs)
	}
}

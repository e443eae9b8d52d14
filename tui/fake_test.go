package tui

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/colorprofile"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
	"github.com/specql/specql-ops/ops/actions"
	"github.com/specql/specql-ops/tui/parts"
)

var start = time.Date(2026, 11, 23, 3, 12, 20, 0, time.UTC)

// fake is a Source with fixed figures and a clock that the test holds.
type fake struct {
	mu       sync.Mutex
	now      time.Time
	err      error // what every question answers, when set
	overview ops.Overview
	live     ops.Live
	rows     []ops.JobRow
	detail   ops.JobDetail
	agents   []ops.AgentRow
	services []ops.ServiceRow
	service  ops.ServiceDetail
	audit    []ops.AuditRow
	log      []ops.LogChunk
	walk     ops.Walk
	switched []string
	done     []string // what else was changed
}

func ptr[T any](v T) *T { return &v }

func answer[T any](f *fake, v func() T) (T, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		var zero T
		return zero, f.err
	}
	return v(), nil
}

func (f *fake) source() Source {
	return Source{
		Migrate: f.walkSource(),
		Clock:   func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.now },
		Overview: func(context.Context) (ops.Overview, error) {
			return answer(f, func() ops.Overview { return f.overview })
		},
		Live: func(context.Context, time.Duration) (ops.Live, error) {
			return answer(f, func() ops.Live {
				v := f.live
				v.Types = slices.Clone(v.Types)
				return v
			})
		},
		List: func(_ context.Context, filter ops.Filter, p ops.Page) ([]ops.JobRow, error) {
			return answer(f, func() []ops.JobRow { return f.page(filter, p) })
		},
		Job: func(context.Context, jobs.ID) (ops.JobDetail, error) {
			return answer(f, func() ops.JobDetail { return f.detail })
		},
		Agents: func(context.Context) ([]ops.AgentRow, error) {
			return answer(f, func() []ops.AgentRow { return f.agents })
		},
		Filter: ops.ParseFilter,
		Plan: func(_ context.Context, types []jobs.ExecutionType, enable bool) (ops.SwitchPlan, error) {
			return answer(f, func() ops.SwitchPlan {
				return ops.SwitchPlan{Enable: enable, NeedsForce: !enable && types[0] == jobs.HTTP,
					Types: []ops.TypePlan{{Type: types[0], Pending: 12408, PendingCapped: true, Running: 7, Services: 3}}}
			})
		},
		Switch: func(_ context.Context, types []jobs.ExecutionType, enable, force bool, reason string) ([]jobs.Switch, error) {
			return answer(f, func() []jobs.Switch {
				f.switched = append(f.switched, fmt.Sprintf("%s enable=%t force=%t reason=%q", types[0], enable, force, reason))
				return []jobs.Switch{{Type: types[0], Enabled: enable, Reason: reason}}
			})
		},
		PlanStop: func(context.Context) (ops.StopPlan, error) {
			return answer(f, func() ops.StopPlan {
				return ops.StopPlan{Stopped: f.overview.Stopped, Agents: f.overview.AgentsAlive, Pending: 812, Running: 7}
			})
		},
		Stop: func(_ context.Context, stop bool, reason string) (bool, error) {
			return answer(f, func() bool {
				f.done = append(f.done, fmt.Sprintf("stop=%t because %s", stop, reason))
				f.overview.Stopped = ""
				if stop {
					f.overview.Stopped = "emergency stop: " + reason + " (anna, just now)"
				}
				return true
			})
		},
		PlanJobs: func(_ context.Context, action ops.JobAction, filter ops.Filter) (ops.JobPlan, error) {
			return answer(f, func() ops.JobPlan {
				r := row(1)
				if len(filter.IDs) == 1 {
					return ops.JobPlan{Action: action, Count: 1, Running: 1, Sample: []ops.JobRow{r}}
				}
				return ops.JobPlan{Action: action, Count: max(int64(len(filter.IDs)), 1)*1000 + 234, Sample: []ops.JobRow{row(4), row(1), r}}
			})
		},
		ChangeJobs: func(_ context.Context, action ops.JobAction, filter ops.Filter, reason string, progress func(int64)) (ops.JobResult, error) {
			return answer(f, func() ops.JobResult {
				f.done = append(f.done, fmt.Sprintf("%s %q %d ids because %s", action, filter.Text+strings.Join(texts(filter.Statuses), ","), len(filter.IDs), reason))
				progress(1000)
				return ops.JobResult{Action: action, Changed: int64(max(len(filter.IDs), 1))}
			})
		},
		Operations: func(context.Context) ([]ops.Operation, error) {
			return answer(f, func() []ops.Operation {
				return []ops.Operation{{Service: "data_processor", Name: "process_data", Type: jobs.Shell, Fields: []ops.OperationField{
					{Name: "rows", Type: "integer", Required: true}, {Name: "format", Type: "string", Values: []string{"csv", "json"}}}},
					{Service: "stripe_api", Name: "create_charge", Type: jobs.HTTP, Fields: []ops.OperationField{
						{Name: "amount", Type: "number", Required: true, About: "in the currency's main unit"}, {Name: "customer", Type: "string", Required: true}}}}
			})
		},
		Enqueue: func(_ context.Context, o ops.Operation, typed map[string]string, reason string) (jobs.ID, error) {
			return answer(f, func() jobs.ID {
				input, err := o.Input(typed)
				f.done = append(f.done, fmt.Sprintf("enqueue %s.%s %s %v", o.Service, o.Name, input, err))
				return jobs.ID{0x9c, 15: 1}
			})
		},
		Follow: func(_ context.Context, _ jobs.ID, tell func(ops.LogChunk) error) error {
			for _, c := range f.log {
				if err := tell(c); err != nil {
					return err
				}
			}
			return nil
		},
		Services: func(context.Context) ([]ops.ServiceRow, error) {
			return answer(f, func() []ops.ServiceRow { return slices.Clone(f.services) })
		},
		Service: func(context.Context, string) (ops.ServiceDetail, error) {
			return answer(f, func() ops.ServiceDetail { return f.service })
		},
		PlanService: func(_ context.Context, name string, change jobs.LaneChange) (ops.ServicePlan, error) {
			return answer(f, func() ops.ServicePlan { return ops.ServicePlan{Pending: 57, Running: 5} })
		},
		SwitchService: func(_ context.Context, name string, change jobs.LaneChange, reason string) ([]jobs.LaneSwitch, error) {
			return answer(f, func() []jobs.LaneSwitch {
				f.done = append(f.done, fmt.Sprintf("%s %s because %s", change, name, reason))
				return []jobs.LaneSwitch{{Service: name}}
			})
		},
		Versions: func(context.Context) ([]ops.VersionRow, error) {
			return answer(f, func() []ops.VersionRow {
				return []ops.VersionRow{{ID: 2, Hash: "a1b2c3d4e5f6", Agent: "agent-1", AppliedAt: start.Add(-time.Hour)}, {ID: 1, Hash: "77aa00bb1122", Agent: "agent-1", AppliedAt: start.Add(-30 * time.Hour)}}
			})
		},
		Diff: func(_ context.Context, from, to string) (ops.VersionDiff, error) {
			return answer(f, func() ops.VersionDiff {
				return ops.VersionDiff{Text: "--- " + from + "\n+++ " + to + "\n@@ -4,1 +4,1 @@\n-      timeout: 30\n+      timeout: 45\n"}
			})
		},
		Order: func(_ context.Context, agents []ops.AgentRow, order ops.Order, reason string) (ops.Ordered, error) {
			return answer(f, func() ops.Ordered {
				f.done = append(f.done, fmt.Sprintf("%s %d agents because %s", order, len(agents), reason))
				return ops.Ordered{Order: order, Changed: make([]jobs.ID, len(agents))}
			})
		},
		Audit: func(_ context.Context, before int64, text string, limit int) ([]ops.AuditRow, error) {
			return answer(f, func() (out []ops.AuditRow) {
				for _, r := range f.audit {
					if (before == 0 || r.ID < before) && strings.Contains(r.Reason+r.Action, text) && len(out) < limit {
						out = append(out, r)
					}
				}
				return out
			})
		},
		Keymap: keymap(),
	}
}

func keymap() actions.Keymap {
	m, err := actions.NewKeymap(nil)
	if err != nil {
		panic(err)
	}
	return m
}

func texts(list []jobs.Status) (out []string) {
	for _, s := range list {
		out = append(out, string(s))
	}
	return out
}

// page answers as the database does: newest first, after the cursor.
func (f *fake) page(filter ops.Filter, p ops.Page) []ops.JobRow {
	var out []ops.JobRow
	after := p.After == (ops.Cursor{})
	for _, r := range f.rows {
		if after && (len(filter.Statuses) == 0 || r.Status == filter.Statuses[0]) && len(out) < p.Size {
			out = append(out, r)
		}
		after = after || r.ID == p.After.ID
	}
	return out
}

func row(i int) ops.JobRow {
	services := []struct {
		service, operation string
		t                  jobs.ExecutionType
	}{{"stripe_api", "create_charge", jobs.HTTP}, {"data_processor", "process_data", jobs.Shell},
		{"ml_model", "predict", jobs.Docker}, {"image_resizer", "resize", jobs.Serverless}}
	statuses := []jobs.Status{jobs.Pending, jobs.Running, jobs.Completed, jobs.Completed, jobs.Failed, jobs.Completed, jobs.Cancelled}
	s := services[i%4]
	created := start.Add(-time.Duration(i*i+3) * time.Second)
	r := ops.JobRow{Identifier: fmt.Sprintf("job-%06d", 900000-i), Service: s.service, Operation: s.operation, Type: s.t,
		Status: statuses[i%7], Attempts: 1 + i%3, MaxAttempts: 3, CreatedAt: created}
	r.ID[0], r.ID[12], r.ID[13], r.ID[14], r.ID[15] = 0x9c, byte(i>>24), byte(i>>16), byte(i>>8), byte(i)
	if r.Status != jobs.Pending {
		r.StartedAt = ptr(created.Add(time.Second))
	}
	switch r.Status {
	case jobs.Completed:
		r.DurationSeconds = ptr(0.012 * float64(1+i%90))
	case jobs.Failed:
		r.DurationSeconds = ptr(2.5)
		r.Error = "connect \x1b[31mto api\x1b[0m.example.com:443: timeout\nafter 2.5 s \u202egnp.exe"
	}
	return r
}

func newFake() *fake {
	f := &fake{now: start, walk: newWalk()}
	f.overview = ops.Overview{Database: "orders", Server: "db-1.internal", Role: "anna", Migrated: true, AgentsAlive: 3, AgentsRunning: 18,
		RegistryHashes: []string{"a1b2c3d4e5f6"}, Environments: []string{"production"}, MultiExecution: true, At: start}
	series := func(k float64) (done, failed, p95 []float64) {
		for i := range 15 {
			done = append(done, k*float64(3+(i*7)%11))
			failed = append(failed, float64(i%4))
			p95 = append(p95, k*float64(20+(i*5)%13))
		}
		return
	}
	types := []ops.TypeLive{
		{Type: jobs.HTTP, Switch: jobs.Switch{Type: jobs.HTTP, Enabled: true}, Completed: 184203, Failed: 612, P50: 38 * time.Millisecond,
			P95: 182 * time.Millisecond, P99: 1240 * time.Millisecond, Waiting: 312, Oldest: 4 * time.Second, Running: 12},
		{Type: jobs.Shell, Switch: jobs.Switch{Type: jobs.Shell, Enabled: true}, Completed: 9120, Failed: 801, Violations: 3, P50: 420 * time.Millisecond,
			P95: 6300 * time.Millisecond, P99: 48 * time.Second, Waiting: 57, Oldest: 96 * time.Second, Running: 5,
			CPUPercent: ptr(71.2), MemoryMB: ptr(182.4), PeakMemoryMB: ptr(511.0)},
		{Type: jobs.Docker, Switch: jobs.Switch{Type: jobs.Docker, Reason: "image registry maintenance", ChangedBy: "anna", ChangedAt: start.Add(-12 * time.Minute)},
			Waiting: 10000, WaitingCapped: true, Oldest: 13 * time.Minute, Running: 1, CPUPercent: ptr(188.0), MemoryMB: ptr(1480.0), PeakMemoryMB: ptr(2900.0)},
		{Type: jobs.Serverless, Switch: jobs.Switch{Type: jobs.Serverless, Enabled: true}, Completed: 412, P50: 92 * time.Millisecond,
			P95: 310 * time.Millisecond, P99: 880 * time.Millisecond, MemoryMB: ptr(94.0), PeakMemoryMB: ptr(121.0)},
	}
	for i := range types {
		types[i].Window, types[i].Total, types[i].TotalAt = 15*time.Minute, 1000, start.Add(-time.Second)
		types[i].DoneSeries, types[i].FailedSeries, types[i].P95Series = series(float64(4 - i))
	}
	f.live = ops.Live{At: start, Types: types, Held: []ops.Held{
		{Service: "ml_model", Type: jobs.Docker, Waiting: 10000, Capped: true, Reason: "docker is switched off: image registry maintenance (anna, 12 min ago)"},
		{Service: "pdf_render", Type: jobs.Docker, Waiting: 41, Reason: "docker is switched off: image registry maintenance (anna, 12 min ago)"},
		{Service: "legacy_crm", Type: jobs.HTTP, Waiting: 7, Reason: "no registry entry has this name"}}}
	for i := range 24 {
		r := row(i)
		f.live.Services = append(f.live.Services, ops.ServiceLive{Service: r.Service + []string{"", "_eu", "_us"}[i/4%3], Operation: r.Operation, Type: r.Type,
			Completed: int64(90000 / (i + 1)), Failed: int64(i * i * 3), P50: time.Duration(30+i*11) * time.Millisecond, P95: time.Duration(180+i*97) * time.Millisecond})
	}
	for i := range 500 {
		f.rows = append(f.rows, row(i))
	}
	f.detail = ops.JobDetail{JobRow: row(4), Input: json.RawMessage(`{"customer": "c_81", "note": "\u001b[2J", "lines": [1, 2, 3]}`),
		ResourceUsage: json.RawMessage(`{"duration_seconds": 2.5}`), TimeoutSeconds: ptr(300), TenantID: "0b6c1f9e-0000-4000-8000-000000000001",
		CorrelationID: "req-7781", IdempotencyKey: "charge-81", EntityType: "order", EntityPK: "81", UpdatedAt: start, Agent: "agent-2",
		History: []ops.AttemptRow{{Attempt: 1, Agent: "agent-1", FinishedAt: start.Add(-time.Minute), DurationSeconds: ptr(2.5), Error: "HTTP 503 Service Unavailable"}}}
	f.detail.Logs = []ops.AttemptLog{{Attempt: 2, Agent: "agent-2", Tail: jobs.Tail{Dropped: 1200, Lines: []jobs.LogLine{
		{At: start.Add(-3 * time.Second), Stream: "stdout", Text: "reading 12,000 rows"}, {At: start.Add(-2 * time.Second), Stream: "stderr", Text: "connect: \x1b[31mtimeout"}}}}}
	f.log = []ops.LogChunk{{Attempt: 2, Lines: []jobs.LogLine{{At: start, Stream: "stdout", Text: "row 1 of 3"}}},
		{Attempt: 2, Missed: 40, Lines: []jobs.LogLine{{At: start.Add(time.Second), Stream: "stdout", Text: "row 3 of 3 \u202egnp"}}, Over: true}}
	f.services = []ops.ServiceRow{
		{Service: "data_processor", Type: jobs.Shell, Live: true, Waiting: 57, Oldest: 96 * time.Second, Completed: 9120, Failed: 801, Violations: 3, P95: 6300 * time.Millisecond,
			MemoryPeakMB: ptr(511.0), Limits: ops.ServiceLimits{Concurrency: 4}},
		{Service: "image_resizer", Type: jobs.Serverless, Live: true, Completed: 412, P95: 310 * time.Millisecond, Limits: ops.ServiceLimits{PerHour: 1000, SpentHour: 412}},
		{Service: "legacy_crm", Type: jobs.HTTP, Waiting: 7, Oldest: time.Hour, Held: "no agent's registry has the service"},
		{Service: "ml_model", Type: jobs.Docker, Live: true, Waiting: 10000, Capped: true, Oldest: 13 * time.Minute, Held: "docker is switched off: image registry maintenance (anna, 12 min ago)"},
		{Service: "stripe_api", Type: jobs.HTTP, Live: true, Waiting: 312, Oldest: 4 * time.Second, Completed: 184203, Failed: 612, P95: 182 * time.Millisecond,
			Limits: ops.ServiceLimits{PerMinute: 6000, SpentMinute: 5704, FailuresToCut: 5, FailuresNow: 1}},
		{Service: "tax_rates", Type: jobs.HTTP, Live: true, Completed: 20, Failed: 31, P95: 5 * time.Second, Limits: ops.ServiceLimits{FailuresToCut: 5, FailuresNow: 9, OpenUntil: ptr(start.Add(4 * time.Minute))}},
	}
	for i := range f.services {
		if s := &f.services[i]; s.Live {
			s.Switch = jobs.LaneSwitch{Service: s.Service, Type: s.Type, Enabled: true, CanFall: s.Type == jobs.Docker}
		}
	}
	f.service = ops.ServiceDetail{ServiceRow: f.services[0], Version: ops.VersionRow{Hash: "a1b2c3d4e5f6", AppliedAt: start.Add(-time.Hour)},
		Registry: &ops.ServiceEntry{Kind: "processing", Category: "data", Operations: []string{"process_data", "clean_up"}, Commands: []string{"/usr/bin/python3"}},
		Violations: []ops.ViolationRow{{Rule: "allowed_commands", At: start.Add(-9 * time.Minute), Permit: "allowed_commands: [\"/usr/bin/node\"]",
			Message: "not allowed: \"/usr/bin/node\" is refused by security_policy.allowed_commands of service data_processor; to permit it add `allowed_commands: [\"/usr/bin/node\"]` there"}}}
	for i := range 230 {
		f.audit = append(f.audit, ops.AuditRow{ID: int64(500 - i), At: start.Add(-time.Duration(i*i) * time.Minute), Actor: []string{"anna@ops-a", "bert@ops-b"}[i%2],
			Origin: "specql-tui on ops-a", Action: []string{"disable-execution-type", "retry-jobs", "pause-agent"}[i%3], Target: []string{"docker", "dead service:stripe_api", "agent-2"}[i%3],
			Reason: []string{"image registry maintenance", "their outage is over", ""}[i%3], Before: json.RawMessage(`{"enabled": true}`), After: json.RawMessage(`{"enabled": false}`)})
	}
	f.agents = []ops.AgentRow{
		{ID: jobs.ID{1}, Name: "agent-1", Host: "ops-a.internal", PID: 812, Version: "1.0.0", Environment: "production", Types: jobs.ExecutionTypes(), Slots: 64,
			Running: 12, Isolation: "full", RegistryHash: "a1b2c3d4e5f6", State: "running", StartedAt: start.Add(-50 * time.Hour), HeartbeatAt: start.Add(-2 * time.Second)},
		{ID: jobs.ID{2}, Name: "agent-2", Host: "ops-b.internal", PID: 977, Version: "1.0.0", Environment: "production", Types: jobs.ExecutionTypes()[:2], Slots: 32,
			Running: 6, Isolation: "process", RegistryHash: "a1b2c3d4e5f6", RegistryError: "service_registry.yaml:41:7: services[3].runner_config.image: required", State: "running",
			StartedAt: start.Add(-3 * time.Hour), HeartbeatAt: start.Add(-time.Second)},
		{ID: jobs.ID{3}, Name: "agent-3", Host: "ops-c.internal", PID: 31, Version: "0.9.4", Environment: "production", Types: jobs.ExecutionTypes()[:1], Slots: 16,
			Isolation: "none", RegistryHash: "77aa00bb", State: "lost", StartedAt: start.Add(-300 * time.Hour), HeartbeatAt: start.Add(-4 * time.Minute)}}
	return f
}

// console drives an app without a terminal: commands run at once, their
// answers come back as messages, and ticks come when the test says so.
type console struct {
	t   testing.TB
	f   *fake
	app *app
}

func open(t testing.TB, f *fake, w, h int, readOnly string) *console {
	c := &console{t, f, newApp(f.source(), readOnly)}
	c.send(tea.WindowSizeMsg{Width: w, Height: h})
	c.settle(c.app.refresh())
	f.mu.Lock()
	for i := range f.live.Types {
		f.live.Types[i].Total += int64(137 >> (2 * i))
		f.live.Types[i].TotalAt = f.live.Types[i].TotalAt.Add(time.Second)
	}
	f.mu.Unlock()
	c.tick(time.Second)
	return c
}

func (c *console) theme(dark bool, profile colorprofile.Profile) *console {
	c.app.dark, c.app.profile = dark, profile
	c.app.env.Theme = parts.NewTheme(dark, profile)
	return c
}

func (c *console) send(msg tea.Msg) {
	_, cmd := c.app.Update(msg)
	c.settle(cmd)
}

// settle runs a command, those of a batch at the same time, and what their
// answers lead to, until nothing is left to do.
func (c *console) settle(cmd tea.Cmd) {
	answers := make(chan tea.Msg)
	waiting := 0
	run := func(cmd tea.Cmd) {
		if cmd != nil {
			waiting++
			go func() { answers <- cmd() }()
		}
	}
	for run(cmd); waiting > 0; waiting-- {
		switch msg := (<-answers).(type) {
		case nil, tea.QuitMsg:
		case tea.BatchMsg:
			for _, each := range msg {
				run(each)
			}
		default:
			_, cmd := c.app.Update(msg)
			run(cmd)
		}
	}
}

// tick moves the clock and refreshes as the app's own tick does.
func (c *console) tick(d time.Duration) {
	c.pass(d)
	c.app.env.Now = c.f.source().Clock()
	if !c.app.env.Paused {
		c.settle(c.app.refresh())
	}
}

func (c *console) pass(d time.Duration) {
	c.f.mu.Lock()
	c.f.now = c.f.now.Add(d)
	c.f.mu.Unlock()
}

// grace waits until a dialog takes keys; the app has asked to be woken then.
func (c *console) grace() {
	c.pass(parts.Grace)
	c.send(wakeMsg{})
}

var named = map[string]rune{"enter": tea.KeyEnter, "esc": tea.KeyEscape, "tab": tea.KeyTab, "down": tea.KeyDown, "up": tea.KeyUp, "end": tea.KeyEnd,
	"home": tea.KeyHome, "pgdown": tea.KeyPgDown, "left": tea.KeyLeft, "right": tea.KeyRight, "backspace": tea.KeyBackspace}

func (c *console) press(keys ...string) {
	for _, k := range keys {
		if k == "space" {
			c.send(tea.KeyPressMsg{Code: tea.KeySpace, Text: " "})
			continue
		}
		if code, ok := named[k]; ok {
			c.send(tea.KeyPressMsg{Code: code})
			continue
		}
		c.send(tea.KeyPressMsg{Code: []rune(k)[0], Text: k})
	}
}

func (c *console) typed(text string) {
	for _, r := range text {
		c.press(string(r))
	}
}

var errGone = errors.New("connection refused")

package ops

import (
	"encoding/json"
	"time"

	"github.com/specql/specql-ops/jobs"
)

// Overview is the console's top line.
type Overview struct {
	Database       string // name
	Server         string // host or socket
	Role           string
	ReadOnly       bool   // the role may not operate switches or jobs
	ReadOnlyReason string // what the role lacks
	Migrated       bool   // the schema has multi-execution
	AgentsAlive    int
	AgentsRunning  int      // jobs running over all live agents
	RegistryHashes []string // distinct, of live agents
	Environments   []string // distinct, of live agents
	MultiExecution bool     // any type but http is enabled
	Stopped        string   // why claiming rests everywhere, by whom and since when; empty: it does not
	At             time.Time
}

// Live is the page of live figures, at one moment.
type Live struct {
	At       time.Time
	Types    []TypeLive    // in the order of jobs.ExecutionTypes
	Services []ServiceLive // most jobs first
	Held     []Held
}

// TypeLive is one execution type's card. Counts are over Window; the series
// hold one value a minute, oldest first.
type TypeLive struct {
	Type                 jobs.ExecutionType
	Switch               jobs.Switch
	Window               time.Duration
	Completed, Failed    int64 // attempts
	Violations           int64
	P50, P95, P99        time.Duration
	Waiting              int64 // capped at WaitingCap for each service
	WaitingCapped        bool
	Oldest               time.Duration // age of the oldest waiting job; 0: none waits
	Running              int64
	CPUPercent, MemoryMB *float64 // averages; nil: no figures
	PeakMemoryMB         *float64
	DoneSeries           []float64 // completed and failed attempts a minute
	FailedSeries         []float64
	P95Series            []float64 // milliseconds
	// Total counts finished attempts since a moment that moves once an hour;
	// two readings give the present rate, unless the later one is lower.
	Total   int64
	TotalAt time.Time
}

// ServiceLive is a row of the busiest and most failing services.
type ServiceLive struct {
	Service           string
	Operation         string
	Type              jobs.ExecutionType
	Completed, Failed int64
	P50, P95          time.Duration
}

// Held says why jobs of a service wait although agents are free.
type Held struct {
	Service string
	Type    jobs.ExecutionType
	Waiting int64
	Capped  bool
	Reason  string // "shell is switched off: maintenance (anna, 3 min ago)", "no agent runs docker" …
}

// WaitingCap bounds the counting of a service's waiting jobs, so that a
// screen costs the same with a million of them.
const WaitingCap = 10000

// Filter selects jobs; the zero value selects all. ParseFilter reads it from
// the operator's words: `type:shell status:failed service:stripe_api
// age>1h age<5m id:… text`.
type Filter struct {
	Types                []jobs.ExecutionType
	Statuses             []jobs.Status
	Dead                 bool          // also the dead letters: failed without attempts left
	Services             []string      // exact
	IDs                  []jobs.ID     // these jobs and no others
	Text                 string        // part of service, operation or identifier, any case
	OlderThan, NewerThan time.Duration // by created_at; 0: no bound

	retrying bool // also the failed ones that wait for their retry
}

// Page asks for a stretch of the list, newest first, after a cursor.
type Page struct {
	After  Cursor // zero: from the newest
	Before Cursor // not zero: the page that ends before it
	Size   int    // 1 to 1000

	OldestFirst bool // the other way round; After is then a cursor of that list
}

// Cursor is a row's place in the list (keyset, not offset).
type Cursor struct {
	CreatedAt time.Time
	ID        jobs.ID
}

// JobRow is one line of the list.
type JobRow struct {
	ID              jobs.ID
	Identifier      string
	Service         string
	Operation       string
	Type            jobs.ExecutionType
	Status          jobs.Status
	Attempts        int
	MaxAttempts     int
	CreatedAt       time.Time
	StartedAt       *time.Time
	CompletedAt     *time.Time
	RetryAt         *time.Time
	DurationSeconds *float64
	Error           string
	HeldReason      string // why it waits; empty when it does not, or nothing holds it
}

// JobDetail is everything about one job.
type JobDetail struct {
	JobRow
	Input, Output                                json.RawMessage
	RunnerConfig, ResourceUsage, SecurityContext json.RawMessage
	TimeoutSeconds                               *int
	TenantID, TriggeredBy                        string
	CorrelationID, IdempotencyKey                string
	EntityType, EntityPK                         string
	UpdatedAt                                    time.Time
	Agent                                        string // name of the last agent that held it
	History                                      []AttemptRow
	Logs                                         []AttemptLog // what is kept of them
}

// AttemptRow is one attempt that failed or lost its lease.
type AttemptRow struct {
	Attempt         int
	Agent           string
	StartedAt       *time.Time
	FinishedAt      time.Time
	DurationSeconds *float64
	Error           string
	Violation       string
}

// AgentRow is one line of the agents' page.
type AgentRow struct {
	ID            jobs.ID
	Name, Host    string
	PID           int
	Version       string
	Environment   string
	Types         []jobs.ExecutionType
	Slots         int
	Running       int
	Isolation     string
	RegistryHash  string
	RegistryError string
	State         string     // running, paused, draining, drained, stopped or lost (lease ran out)
	Wanted        string     // by operators: running, paused or drained
	ReloadAskedAt *time.Time // nil: no reload is due
	StartedAt     time.Time
	HeartbeatAt   time.Time
	Abilities     map[jobs.ExecutionType][]HostCheck // what its host can run, as it found at its start
	Cannot        map[string]string                  // services that its host cannot run, and why
}

// HostCheck is one finding about what an agent's host can run.
type HostCheck struct {
	Name   string `json:"name"`             // "landlock", "engine", "identity"
	OK     bool   `json:"ok"`               // false: something cannot be had there
	Found  string `json:"found"`            // what was found, with versions
	Advice string `json:"advice,omitempty"` // what to change to get more
}

// SwitchPlan says what a switch will do, before it is done.
type SwitchPlan struct {
	Enable     bool
	Types      []TypePlan
	NeedsForce bool // http would be disabled
}

// TypePlan is one type of a SwitchPlan.
type TypePlan struct {
	Type          jobs.ExecutionType
	Switch        jobs.Switch // as it stands
	Already       bool        // it stands so already
	Pending       int64       // jobs that will be held or let go; capped at WaitingCap for each service
	PendingCapped bool
	Running       int64 // jobs that go on to their end
	Services      int   // with waiting jobs
}

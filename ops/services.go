package ops

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// ServiceRow is one service as the agents' registry has it, and how it fares.
type ServiceRow struct {
	Service string
	Type    jobs.ExecutionType
	Live    bool   // a live agent's registry has it
	Held    string // why its jobs wait, or would; empty: they go
	Waiting int64
	Capped  bool
	Oldest  time.Duration

	// Over the last hour, by the figures of minutes.
	Completed, Failed, Violations int64
	P95                           time.Duration
	MemoryPeakMB                  *float64

	Limits ServiceLimits
	Switch jobs.LaneSwitch // what operators decided; its zero value where no agent has the service
}

// ServiceLimits are what a service may use, and what it has used of it. A
// limit of 0 is none.
type ServiceLimits struct {
	Concurrency   int // jobs at once on one agent
	PerMinute     int
	SpentMinute   int
	PerHour       int
	SpentHour     int
	FailuresToCut int // failures in a row that open its circuit
	FailuresNow   int
	OpenUntil     *time.Time // its circuit is open until then
}

// servicesWindow is what a service's figures look back on.
const servicesWindow = time.Hour

// The services that agents have written down, and those whose jobs wait
// though no agent knows them are added by GetServices.
const servicesSQL = `
SELECT l.service_name, l.execution_type,
       l.registry_hash = ANY (ARRAY(SELECT registry_hash FROM jobs.tb_agent WHERE lease_expires_at > now())),
       coalesce(v.held, ''), l.concurrency, l.rate_limit_per_minute, coalesce(m.n, 0), l.max_invocations_per_hour, coalesce(h.n, 0),
       l.failure_threshold, l.failures_in_row, CASE WHEN l.open_until > now() THEN l.open_until END
  FROM jobs.tb_lane l
  LEFT JOIN jobs.v_lane v ON v.service_name = l.service_name
  LEFT JOIN LATERAL (SELECT sum(jobs) AS n FROM jobs.tb_lane_spent s WHERE s.service_name = l.service_name AND gate = 'minute'
        AND slice > floor(extract(epoch FROM now()) / 0.6) - 100) m ON true
  LEFT JOIN LATERAL (SELECT sum(jobs) AS n FROM jobs.tb_lane_spent s WHERE s.service_name = l.service_name AND gate = 'hour'
        AND slice > floor(extract(epoch FROM now()) / 36) - 100) h ON true
 ORDER BY l.service_name`

const serviceFiguresSQL = `
SELECT service_name, completed, failed, violations, memory_samples, memory_mb_peak, duration_hist
  FROM jobs.tb_job_metric WHERE minute >= date_trunc('minute', now()) - $1::interval`

// GetServices lists every service that agents run or that has waiting jobs, by
// name. Its cost does not grow with the jobs table.
func GetServices(ctx context.Context, db jobs.Beginner) ([]ServiceRow, error) {
	rows, err := getServices(ctx, db)
	return rows, Explain(err)
}

func getServices(ctx context.Context, db jobs.Beginner) ([]ServiceRow, error) {
	tx, err := db.Begin(ctx)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback(context.WithoutCancel(ctx))
	h, err := readHolders(ctx, tx)
	if err != nil {
		return nil, err
	}
	list, err := writtenServices(ctx, tx)
	if err != nil {
		return nil, err
	}
	at := make(map[string]int, len(list))
	for i := range list {
		at[list[i].Service] = i
	}
	if err := serviceFiguresOf(ctx, tx, list, at); err != nil {
		return nil, err
	}
	switches, err := jobs.LaneSwitches(ctx, tx)
	if err != nil {
		return nil, err
	}
	for _, s := range switches {
		if i, known := at[s.Service]; known {
			list[i].Switch = s
		}
	}
	q, err := readQueue(ctx, tx)
	if err != nil {
		return nil, err
	}
	for _, l := range q.lanes {
		i, known := at[l.Service]
		if !known {
			i = len(list)
			list = append(list, ServiceRow{Service: l.Service, Type: l.Type})
		}
		list[i].Waiting, list[i].Capped, list[i].Oldest = l.Waiting, l.Capped, l.Oldest
		list[i].Held = h.reason(l.laneState, l.Oldest)
	}
	for i := range list {
		if s := &list[i]; s.Held == "" && s.Waiting == 0 {
			s.Held = h.reason(laneState{Type: s.Type, Known: true, Live: s.Live}, 0)
		}
	}
	return list, nil
}

func writtenServices(ctx context.Context, db jobs.Querier) ([]ServiceRow, error) {
	rows, err := db.Query(ctx, servicesSQL)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s ServiceRow, err error) {
		l := &s.Limits
		err = row.Scan(&s.Service, &s.Type, &s.Live, &s.Held, &l.Concurrency, &l.PerMinute, &l.SpentMinute, &l.PerHour, &l.SpentHour,
			&l.FailuresToCut, &l.FailuresNow, &l.OpenUntil)
		return s, err
	})
}

// serviceFiguresOf adds the last hour's figures to the services.
func serviceFiguresOf(ctx context.Context, db jobs.Querier, list []ServiceRow, at map[string]int) error {
	rows, err := db.Query(ctx, serviceFiguresSQL, servicesWindow)
	if err != nil {
		return err
	}
	took := make([]jobs.Histogram, len(list))
	var service string
	var completed, failed, violations, samples int64
	var peak float64
	var hist []int64
	_, err = pgx.ForEachRow(rows, []any{&service, &completed, &failed, &violations, &samples, &peak, &hist}, func() error {
		i, known := at[service]
		if !known {
			return nil
		}
		s := &list[i]
		s.Completed, s.Failed, s.Violations = s.Completed+completed, s.Failed+failed, s.Violations+violations
		if samples > 0 && (s.MemoryPeakMB == nil || peak > *s.MemoryPeakMB) {
			s.MemoryPeakMB = new(peak)
		}
		took[i].Merge(hist)
		return nil
	})
	for i := range list {
		list[i].P95 = took[i].Quantile(0.95)
	}
	return err
}

// ViolationRow is what a policy refused.
type ViolationRow struct {
	JobID   jobs.ID
	Rule    string
	Message string
	At      time.Time
	Permit  string // the line of the registry that would permit it; empty: none would, or it is not known
}

const violationsSQL = `
SELECT t.job_id, t.violation, t.error_message, t.finished_at
  FROM jobs.tb_job_run r JOIN jobs.tb_job_attempt t ON t.job_id = r.id
 WHERE r.id = ANY (ARRAY(SELECT id FROM jobs.tb_job_run WHERE status = 'failed' AND execution_type = $2
                            AND service_name = $1 ORDER BY updated_at DESC LIMIT 50))
   AND t.violation IS NOT NULL
 ORDER BY t.finished_at DESC LIMIT $3`

// ServiceDetail is one service in full.
type ServiceDetail struct {
	ServiceRow
	Registry   *ServiceEntry  // as the newest version has it; nil: it has not
	Version    VersionRow     // that version
	Violations []ViolationRow // of its failed jobs, the newest first
}

// ServiceEntry is what the registry says of a service, secrets masked.
type ServiceEntry struct {
	Kind, Category            string
	Operations                []string
	BaseURL                   string
	Fallback                  bool // it is of another type than http and can run over http
	Commands, Domains, Images []string
}

func entryOf(s *registry.Service) *ServiceEntry {
	e := &ServiceEntry{Kind: s.Type, Category: s.Category, BaseURL: s.RunnerConfig.BaseURL,
		Fallback: s.ExecutionType != jobs.HTTP && s.RunnerConfig.BaseURL != "",
		Commands: s.SecurityPolicy.AllowedCommands, Domains: s.SecurityPolicy.AllowedDomains, Images: s.SecurityPolicy.AllowedImages}
	for i := range s.Operations {
		e.Operations = append(e.Operations, s.Operations[i].Name)
	}
	return e
}

// maxViolations bounds ServiceDetail.Violations.
const maxViolations = 20

// GetService reads one service in full. A *NameError says that there is none.
func GetService(ctx context.Context, db jobs.Beginner, name string) (ServiceDetail, error) {
	list, err := GetServices(ctx, db)
	if err != nil {
		return ServiceDetail{}, err
	}
	var d ServiceDetail
	var known []string
	for _, s := range list {
		if s.Service == name {
			d.ServiceRow = s
		}
		known = append(known, s.Service)
	}
	if d.Service == "" {
		return d, &NameError{What: "service", Name: name, Known: known}
	}
	config, version, err := newestRegistry(ctx, db)
	if err != nil {
		return d, Explain(err)
	}
	if config != nil {
		if s, ok := config.Service(name); ok {
			d.Registry, d.Version = entryOf(s), version
		}
	}
	rows, err := db.Query(ctx, violationsSQL, name, string(d.Type), maxViolations)
	if err != nil {
		return d, Explain(err)
	}
	d.Violations, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (v ViolationRow, err error) {
		err = row.Scan(&v.JobID, &v.Rule, &v.Message, &v.At)
		v.Permit = PermitLine(v.Message)
		return v, err
	})
	return d, Explain(err)
}

// newestRegistry is the newest version that agents applied, secrets masked;
// nil where there is none.
func newestRegistry(ctx context.Context, db jobs.Querier) (*registry.Config, VersionRow, error) {
	list, err := ListVersions(ctx, db, nil, 1)
	if err != nil || len(list) == 0 {
		return nil, VersionRow{}, err
	}
	var text string
	if err := db.QueryRow(ctx, `SELECT document FROM jobs.tb_registry_version WHERE id = $1`, list[0].ID).Scan(&text); err != nil {
		return nil, list[0], err
	}
	return registry.Sketch(list[0].File, []byte(text), list[0].Environment), list[0], nil
}

// AuditRow is one line of the audit log.
type AuditRow struct {
	ID                    int64
	At                    time.Time
	Actor, Origin, Action string
	Target, Reason        string
	Before, After         json.RawMessage
}

const auditSQL = `
SELECT id, at, actor, origin, action, target, reason, before_value, after_value FROM jobs.tb_audit
 WHERE ($1 = 0 OR id < $1)
   AND ($2 = '' OR strpos(lower(actor), lower($2)) > 0 OR strpos(lower(action), lower($2)) > 0
        OR strpos(lower(target), lower($2)) > 0 OR strpos(lower(reason), lower($2)) > 0)
 ORDER BY id DESC LIMIT $3`

// ListAudit lists who did what, newest first: at most limit entries that come
// before the one given (0: from the newest) and hold the text, in any case, in
// who, what, where or why.
func ListAudit(ctx context.Context, db jobs.Querier, before int64, text string, limit int) ([]AuditRow, error) {
	rows, err := db.Query(ctx, auditSQL, before, text, limit)
	if err != nil {
		return nil, Explain(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[AuditRow])
	return list, Explain(err)
}

package jobs_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := jobs.ConnectForExchanges(t.Context(), config, jobs.Patience{Network: time.Minute, Lock: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// life is what the model knows of a job.
type life struct {
	status        jobs.Status
	attempts, max int
	agent         jobs.ID // that runs it
	retry         bool    // failed, and will be tried again
	completions   int
}

// held is an attempt as an agent believes to have it.
type held struct {
	agent jobs.ID
	job   *jobs.Job
}

type model struct {
	t     *rapid.T
	conn  *pgx.Conn
	ids   []jobs.ID // of the agents' present incarnations
	lives map[jobs.ID]*life
	held  []held // attempts that may still report, also late
}

func (m *model) exec(sql string, args ...any) {
	if _, err := m.conn.Exec(context.Background(), sql, args...); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) register(i int) {
	m.ids[i] = jobs.NewID()
	info := jobs.AgentInfo{ID: m.ids[i], Name: fmt.Sprint("agent", i), Slots: 10, Types: []jobs.ExecutionType{jobs.HTTP}}
	if err := jobs.Register(context.Background(), m.conn, info, time.Hour); err != nil {
		m.t.Fatal(err)
	}
}

func (m *model) insert() {
	var id jobs.ID
	max := rapid.IntRange(1, 3).Draw(m.t, "max_attempts")
	err := m.conn.QueryRow(context.Background(), `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, max_attempts)
		VALUES (gen_random_uuid()::text, 'a', 'run', $1) RETURNING id`, max).Scan(&id)
	if err != nil {
		m.t.Fatal(err)
	}
	m.lives[id] = &life{status: jobs.Pending, max: max}
}

func (m *model) do(e jobs.Exchange, agent jobs.ID) jobs.Exchanged {
	out, err := e.Do(context.Background(), m.conn, agent)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m *model) claim(i int) {
	room := rapid.IntRange(1, 4).Draw(m.t, "room")
	waiting := 0
	for _, l := range m.lives {
		if l.status == jobs.Pending {
			waiting++
		}
	}
	out := m.do(jobs.Exchange{Claim: jobs.Claim{Limit: room,
		Lanes: []jobs.Lane{{Service: "a", Type: jobs.HTTP, Room: room, From: jobs.First}}}}, m.ids[i])
	if len(out.Claimed) != min(room, waiting) {
		m.t.Fatalf("claimed %d of %d waiting, room %d", len(out.Claimed), waiting, room)
	}
	for _, j := range out.Claimed {
		l := m.lives[j.ID]
		if l.status != jobs.Pending {
			m.t.Fatalf("claimed a job that is %s", l.status)
		}
		l.status, l.agent = jobs.Running, m.ids[i]
		l.attempts++
		if j.Attempt != l.attempts {
			m.t.Fatalf("attempt %d, want %d", j.Attempt, l.attempts)
		}
		m.held = append(m.held, held{m.ids[i], j})
	}
}

// report ends an attempt that an agent believes to have, in one of three ways.
func (m *model) report() {
	at := rapid.IntRange(0, len(m.held)-1).Draw(m.t, "which")
	h := m.held[at]
	m.held = append(m.held[:at], m.held[at+1:]...)
	l := m.lives[h.job.ID]
	mine := l.status == jobs.Running && l.agent == h.agent && l.attempts == h.job.Attempt
	end := jobs.Completion{Job: h.job, Duration: time.Second}
	var e jobs.Exchange
	how := rapid.SampledFrom([]string{"completed", "failed", "final", "handed back"}).Draw(m.t, "how")
	switch how {
	case "completed":
		e.Completed = []jobs.Completion{end}
	case "failed":
		e.Failed = []jobs.Failure{{Completion: end, Error: "broke"}}
	case "final":
		e.Failed = []jobs.Failure{{Completion: end, Error: "refused", Final: true}}
	default:
		e.HandBack = []jobs.HandBack{{Job: h.job, Unstarted: rapid.Bool().Draw(m.t, "unstarted")}}
	}
	out := m.do(e, h.agent)
	if (out.Recorded == 1) != mine {
		m.t.Fatalf("%s: recorded %d, the job is %+v", how, out.Recorded, l)
	}
	if !mine {
		return
	}
	switch how {
	case "completed":
		l.status = jobs.Completed
		l.completions++
	case "failed":
		l.status, l.retry = jobs.Failed, l.attempts < l.max
	case "final":
		l.status, l.max = jobs.Failed, l.attempts
	default:
		l.status = jobs.Pending
		l.attempts--
	}
}

// lose ends an agent's lease; it comes back as another, its jobs are taken over.
func (m *model) lose(i int) {
	m.exec("UPDATE jobs.tb_agent SET lease_expires_at = now() - interval '1 second' WHERE id = $1", m.ids[i])
	if got := m.do(jobs.Exchange{Claim: jobs.Claim{Limit: 9, Lanes: []jobs.Lane{{Service: "a", Type: jobs.HTTP, Room: 9, From: jobs.First}}}}, m.ids[i]); len(got.Claimed) > 0 {
		m.t.Fatalf("an agent without a lease claimed %d jobs", len(got.Claimed))
	}
	n, err := jobs.TakeOver(context.Background(), m.conn)
	if err != nil {
		m.t.Fatal(err)
	}
	want := 0
	for _, l := range m.lives {
		if l.status == jobs.Running && l.agent == m.ids[i] {
			want++
			l.status = jobs.Pending
			if l.attempts >= l.max {
				l.status = jobs.Failed
			}
		}
	}
	if n != want {
		m.t.Fatalf("took over %d jobs, want %d", n, want)
	}
	m.register(i)
}

func (m *model) promote() {
	m.exec("UPDATE jobs.tb_job_run SET retry_at = now() WHERE retry_at IS NOT NULL")
	n, _, err := jobs.Promote(context.Background(), m.conn)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, l := range m.lives {
		if l.retry {
			n--
			l.status, l.retry = jobs.Pending, false
		}
	}
	if n != 0 {
		m.t.Fatalf("promoted %d too many", n)
	}
}

func (m *model) cancel() {
	for id, l := range m.lives { // any one
		if l.status == jobs.Completed {
			continue
		}
		m.exec("UPDATE jobs.tb_job_run SET status = 'cancelled', retry_at = NULL WHERE id = $1", id)
		l.status, l.retry = jobs.Cancelled, false
		return
	}
}

// again is an operator's retry of a job that was given up.
func (m *model) again() {
	for id, l := range m.lives { // any one
		if l.status == jobs.Cancelled || l.status == jobs.Failed {
			m.exec("UPDATE jobs.tb_job_run SET status = 'pending', retry_at = NULL, max_attempts = attempts + 1 WHERE id = $1", id)
			l.status, l.retry, l.max = jobs.Pending, false, l.attempts+1
			return
		}
	}
}

// check compares the table with the model.
func (m *model) check() {
	rows, err := m.conn.Query(context.Background(), `SELECT id, status, attempts, max_attempts, retry_at IS NOT NULL FROM jobs.tb_job_run`)
	if err != nil {
		m.t.Fatal(err)
	}
	var id jobs.ID
	var have life
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&id, &have.status, &have.attempts, &have.max, &have.retry}, func() error {
		n++
		want := *m.lives[id]
		have.agent, have.completions = want.agent, want.completions
		if want != have {
			return fmt.Errorf("job %s is %+v, the model says %+v", id, have, want)
		}
		if want.completions > 1 {
			return fmt.Errorf("job %s was completed %d times", id, want.completions)
		}
		return nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	if n != len(m.lives) {
		m.t.Fatalf("%d of %d jobs are left", n, len(m.lives))
	}
}

// TestLifeOfJobsIsThatOfTheModel plays claims, ends, late reports, lost
// agents, retries and cancellations in any order, on the real table.
func TestLifeOfJobsIsThatOfTheModel(t *testing.T) {
	conn := connect(t, devdbtest.New(t, migrationstest.Migrated))
	rapid.Check(t, func(t *rapid.T) {
		m := &model{t: t, conn: conn, ids: make([]jobs.ID, 2), lives: map[jobs.ID]*life{}}
		m.exec("DELETE FROM jobs.tb_job_run")
		m.exec("DELETE FROM jobs.tb_agent")
		m.register(0)
		m.register(1)
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			i := rapid.IntRange(0, 1).Draw(t, "agent")
			switch rapid.SampledFrom([]string{"insert", "insert", "claim", "claim", "report", "report", "report", "lose", "promote", "cancel", "again"}).Draw(t, "step") {
			case "insert":
				m.insert()
			case "claim":
				m.claim(i)
			case "report":
				if len(m.held) > 0 {
					m.report()
				}
			case "lose":
				m.lose(i)
			case "promote":
				m.promote()
			case "cancel":
				m.cancel()
			case "again":
				m.again()
			}
			m.check()
		}
	})
}

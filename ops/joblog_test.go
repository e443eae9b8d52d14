//go:build unix

package ops

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
)

// says writes lines into a job's log as an agent does: those from first on.
func says(t *testing.T, conn *pgx.Conn, agent jobs.ID, job *jobs.Job, first int64, lines ...string) {
	t.Helper()
	tail := jobs.Tail{Dropped: first}
	for _, line := range lines {
		tail.Lines = append(tail.Lines, jobs.LogLine{At: time.Now(), Stream: "stdout", Text: line})
	}
	if err := jobs.KeepLogs(t.Context(), conn, agent, []jobs.AttemptTail{{Job: job, Tail: tail}}); err != nil {
		t.Fatal(err)
	}
}

func TestFollowedLogTellsEachLineOnceAndWhatWasDropped(t *testing.T) {
	db := open(t)
	pooled, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pooled.Release()
	conn, agent := pooled.Conn(), jobs.NewID()
	job := &jobs.Job{ID: jobs.NewID(), Attempt: 2}
	exec(t, db, `INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, status, attempts, agent_id)
		VALUES ($1, 'j', 's', 'op', 'running', 2, $2)`, job.ID, agent)
	says(t, conn, agent, job, 0, "a", "b")
	says(t, conn, jobs.NewID(), job, 0, "a stranger's")

	var told []string
	step := 0
	err = FollowLog(t.Context(), db, job.ID, func(c LogChunk) error {
		if c.Missed > 0 {
			told = append(told, fmt.Sprintf("(%d missed)", c.Missed))
		}
		for _, line := range c.Lines {
			told = append(told, line.Text)
		}
		switch step++; step {
		case 1:
			says(t, conn, agent, job, 0, "a", "b", "c")
		case 2:
			says(t, conn, agent, job, 5, "f", "g")
		case 3:
			says(t, conn, agent, job, 5, "f", "g", "h")
			exec(t, db, "UPDATE jobs.tb_job_run SET status = 'failed' WHERE id = $1", job.ID)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "c", "(2 missed)", "f", "g", "h"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	d, err := GetJob(t.Context(), db, job.ID)
	if err != nil || len(d.Logs) != 1 || d.Logs[0].Attempt != 2 || d.Logs[0].Dropped != 5 || len(d.Logs[0].Lines) != 3 {
		t.Errorf("%v, %+v", err, d.Logs)
	}
	if err := FollowLog(t.Context(), db, jobs.NewID(), nil); !errors.Is(err, ErrNoJob) {
		t.Errorf("a job that is not there: %v", err)
	}
}

func TestFollowingAsksTheAgentAndEndsWithItsContext(t *testing.T) {
	db := open(t)
	job := jobs.NewID()
	exec(t, db, `INSERT INTO jobs.tb_job_run (id, identifier, service_name, operation, status, attempts)
		VALUES ($1, 'j', 's', 'op', 'running', 1)`, job)
	listening, err := db.Acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer listening.Release()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	signals, err := jobs.Subscribe(ctx, listening.Conn())
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- FollowLog(ctx, db, job, func(LogChunk) error { return nil }) }()
	if s, err := signals.Next(); err != nil || s.Kind != jobs.Follow || s.Job != job {
		t.Errorf("heard %+v, %v", s, err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
	if _, err := signals.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("after its context the subscription ended with %v", err)
	}
}

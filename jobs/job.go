package jobs

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

// ExecutionType says what runs a job. The values are those of the column
// execution_type (guide.md, phase 1 step 2).
type ExecutionType string

// The execution types that the table's check constraint allows.
const (
	HTTP       ExecutionType = "http"
	Shell      ExecutionType = "shell"
	Docker     ExecutionType = "docker"
	Serverless ExecutionType = "serverless"
)

// ExecutionTypes lists every type in the order in which people read them.
func ExecutionTypes() []ExecutionType {
	return []ExecutionType{HTTP, Shell, Docker, Serverless}
}

// ParseExecutionType reads a type in any case. The error names the valid ones.
func ParseExecutionType(s string) (ExecutionType, error) {
	t := ExecutionType(strings.ToLower(strings.TrimSpace(s)))
	for _, known := range ExecutionTypes() {
		if t == known {
			return t, nil
		}
	}
	return "", fmt.Errorf("unknown execution type %q: use http, shell, docker or serverless", s)
}

// Status is a job's state; no others exist.
type Status string

// The states of a job's life: pending → running → completed, failed or
// cancelled. A failed job with attempts left goes back to pending when its
// retry is due; one without is the dead-letter list.
const (
	Pending   Status = "pending"
	Running   Status = "running"
	Completed Status = "completed"
	Failed    Status = "failed"
	Cancelled Status = "cancelled"
)

// Statuses lists every status in the order of a job's life.
func Statuses() []Status {
	return []Status{Pending, Running, Completed, Failed, Cancelled}
}

// ParseStatus reads a status in any case. The error names the valid ones.
func ParseStatus(s string) (Status, error) {
	v := Status(strings.ToLower(strings.TrimSpace(s)))
	for _, known := range Statuses() {
		if v == known {
			return v, nil
		}
	}
	return "", fmt.Errorf("unknown status %q: use pending, running, completed, failed or cancelled", s)
}

// Job is one claimed attempt: what a runner needs of the row. The row is
// untrusted input; only the registry grants anything.
type Job struct {
	ID         ID
	Identifier string
	Service    string // as the row spells it
	Operation  string

	Input           json.RawMessage // input_data; nil when the column is null
	RunnerConfig    json.RawMessage // what the row asks; it may only narrow
	SecurityContext json.RawMessage // what the row asks; it may only narrow

	Attempt        int // 1 on the first attempt
	MaxAttempts    int
	TimeoutSeconds int // 0 when the row gives none

	TenantID       string // empty when the column is null
	CorrelationID  string
	IdempotencyKey string // the row's key; empty when it gives none

	CreatedAt time.Time // since when it waited
	StartedAt time.Time // the database's clock at the claim

	Place Place      // in its lane
	place pgtype.TID // where its row was after the claim
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/ops"
)

type logReport struct {
	Attempt int            `json:"attempt"`
	Agent   string         `json:"agent"`
	Dropped int64          `json:"dropped_lines"`
	Lines   []jobs.LogLine `json:"lines"`
}

func printLogs(w io.Writer, logs []ops.AttemptLog) error {
	for _, l := range logs {
		if _, err := fmt.Fprintf(w, "\nlog of attempt %d\n", l.Attempt); err != nil {
			return err
		}
		if err := printLogLines(w, l.Dropped, l.Lines); err != nil {
			return err
		}
	}
	return nil
}

func printLogLines(w io.Writer, dropped int64, lines []jobs.LogLine) error {
	if dropped > 0 {
		if _, err := fmt.Fprintf(w, "  (%d earlier lines were not kept)\n", dropped); err != nil {
			return err
		}
	}
	for _, line := range lines {
		if _, err := fmt.Fprintf(w, "  %s %-6s %s\n", line.At.Local().Format("15:04:05.000"), line.Stream, plain(line.Text)); err != nil {
			return err
		}
	}
	return nil
}

// plain takes out what could deceive a terminal: escape sequences, controls
// and changes of the text's direction. A tab stays.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)) {
			return -1
		}
		return r
	}, text)
}

// followJob prints a running job's log as it is written, until the job ends.
func followJob(ctx context.Context, w io.Writer, c *common, db *pgxpool.Pool, id jobs.ID) error {
	attempt := 0
	return ops.FollowLog(ctx, db, id, func(chunk ops.LogChunk) error {
		if c.json() {
			return json.NewEncoder(w).Encode(map[string]any{"attempt": chunk.Attempt, "dropped_lines": chunk.Missed,
				"lines": chunk.Lines, "status": chunk.Status})
		}
		if attempt != chunk.Attempt {
			attempt = chunk.Attempt
			if _, err := fmt.Fprintf(w, "log of attempt %d\n", attempt); err != nil {
				return err
			}
		}
		if err := printLogLines(w, chunk.Missed, chunk.Lines); err != nil || !chunk.Over {
			return err
		}
		_, err := fmt.Fprintf(w, "the job is %s\n", chunk.Status)
		return err
	})
}

//go:build unix

package ops

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
)

func TestAgentsAreFoundByNameOrByTheBeginningOfTheirID(t *testing.T) {
	db := open(t)
	a := addAgent(t, db, "worker", 1, time.Minute, jobs.HTTP)
	addAgent(t, db, "worker", 1, time.Minute, jobs.HTTP)
	other := addAgent(t, db, "other", 1, time.Minute, jobs.HTTP)
	addAgent(t, db, "lost", 1, -time.Minute, jobs.HTTP)
	shared := a.String()[:5] // all were made at the same time
	for _, c := range []struct {
		names []string
		want  int
		fault string
	}{
		{nil, 3, ""},
		{[]string{"worker"}, 2, ""},
		{[]string{"worker", "other", "worker"}, 3, ""},
		{[]string{strings.ToUpper(other.String())}, 1, ""},
		{[]string{other.String()[:35]}, 1, ""},
		{[]string{shared}, 0, "stands for several live agents: "},
		{[]string{"lost"}, 0, `there is no live agent "lost": there are other (` + other.String() + `), worker (`},
		{[]string{"other", "work"}, 0, `there is no live agent "work"`},
		{[]string{""}, 0, "there is no live agent"},
	} {
		got, err := FindAgents(t.Context(), db, c.names)
		if len(got) != c.want || c.fault == "" && err != nil || c.fault != "" && (err == nil || !strings.Contains(err.Error(), c.fault)) {
			t.Errorf("%q: %d agents, %v; want %d, %q", c.names, len(got), err, c.want, c.fault)
		}
		if fault := (*NameError)(nil); c.fault != "" && !errors.As(err, &fault) {
			t.Errorf("%q: %T", c.names, err)
		}
	}
}

func TestAnOrderIsWrittenOnceAndAudited(t *testing.T) {
	db := open(t)
	addAgent(t, db, "a", 1, time.Minute, jobs.HTTP)
	addAgent(t, db, "b", 1, time.Minute, jobs.HTTP)
	all, err := FindAgents(t.Context(), db, nil)
	if err != nil {
		t.Fatal(err)
	}
	exec(t, db, `UPDATE jobs.tb_agent SET lease_expires_at = now() WHERE name = 'b'`) // it goes meanwhile
	by := jobs.By{Actor: "anna", Origin: "test", Reason: "host maintenance"}
	for i, want := range []int{1, 0} {
		done, err := OrderAgents(t.Context(), db, all, Pause, by)
		if err != nil || len(done.Changed) != want {
			t.Fatalf("round %d: %+v, %v", i, done, err)
		}
	}
	if got := text(t, db, `SELECT string_agg(name || ' ' || wanted, ', ' ORDER BY name) FROM jobs.tb_agent`); got != "a paused, b running" {
		t.Error(got)
	}
	if _, err := OrderAgents(t.Context(), db, all, Reload, by); err != nil {
		t.Fatal(err)
	}
	got := text(t, db, `SELECT string_agg(concat_ws(' ', actor, action, split_part(target, ' ', 1), before_value, after_value, reason), '; ' ORDER BY id) FROM jobs.tb_audit`)
	want := `anna pause-agent a {"wanted": "running"} {"wanted": "paused"} host maintenance; anna reload-agent a {"registry": "abc"} null host maintenance`
	if got != want {
		t.Errorf("the audit log is\n%s\nwant\n%s", got, want)
	}
	if _, err := OrderAgents(t.Context(), db, nil, Pause, by); !errors.Is(err, ErrNoAgents) {
		t.Errorf("no agents: %v", err)
	}
}

func TestWaitingForAnOrderEndsWhenItIsObeyedOrTheAgentIsGone(t *testing.T) {
	db := open(t)
	for _, name := range []string{"obeys", "goes", "stays"} {
		addAgent(t, db, name, 1, time.Minute, jobs.HTTP)
	}
	all, err := FindAgents(t.Context(), db, []string{"obeys", "goes"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OrderAgents(t.Context(), db, all, Drain, jobs.By{}); err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	stand, err := AwaitAgents(t.Context(), db, all, Drain, func(a AgentRow) {
		if seen[a.Name] += " " + a.State; seen[a.Name] != " running" {
			return
		}
		if a.Name == "obeys" { // only once it was seen to run
			exec(t, db, `UPDATE jobs.tb_agent SET state = 'drained' WHERE name = 'obeys'`)
		} else {
			exec(t, db, `UPDATE jobs.tb_agent SET lease_expires_at = now() WHERE name = 'goes'`)
		}
	})
	if err != nil || len(stand) != 2 || seen["obeys"] != " running drained" || seen["goes"] != " running lost" {
		t.Errorf("%v; %+v, %v", seen, stand, err)
	}
	for _, a := range stand {
		if Drain.Obeyed(a) != (a.Name == "obeys") {
			t.Errorf("%s is %s", a.Name, a.State)
		}
	}

	stays, err := FindAgents(t.Context(), db, []string{"stays"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OrderAgents(t.Context(), db, stays, Reload, jobs.By{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	stand, err = AwaitAgents(ctx, db, stays, Reload, func(AgentRow) { cancel() })
	if err != nil || len(stand) != 1 || Reload.Obeyed(stand[0]) {
		t.Errorf("an agent that does not answer: %+v, %v", stand, err)
	}
}

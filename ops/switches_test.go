//go:build unix

package ops

import (
	"errors"
	"testing"

	"github.com/specql/specql-ops/jobs"
)

func TestSwitchPlanSaysWhatIsHeldAndChangesNothing(t *testing.T) {
	db := open(t)
	enqueue(t, db, "a", jobs.Shell, 4, 0)
	enqueue(t, db, "b", jobs.Shell, 3, 0)
	p, err := PlanSwitch(t.Context(), db, []jobs.ExecutionType{jobs.Docker, jobs.Shell}, false)
	if err != nil {
		t.Fatal(err)
	}
	want := []TypePlan{{Type: jobs.Shell, Pending: 7, Services: 2}, {Type: jobs.Docker}}
	for i := range p.Types {
		p.Types[i].Switch = jobs.Switch{}
	}
	if len(p.Types) != 2 || p.Types[0] != want[0] || p.Types[1] != want[1] || p.NeedsForce {
		t.Errorf("plan: %+v", p)
	}
	switches, err := jobs.Switches(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range switches {
		if !s.Enabled {
			t.Errorf("planning switched %s off", s.Type)
		}
	}
}

func TestSwitchChangesEachTypeOnceAndIsAudited(t *testing.T) {
	db := open(t)
	by := jobs.By{Actor: "anna", Origin: "test", Reason: "why not"}
	types := []jobs.ExecutionType{jobs.Shell, jobs.Docker}
	for i, want := range []int{2, 0} {
		changed, err := Switch(t.Context(), db, types, false, false, by)
		if err != nil || len(changed) != want {
			t.Fatalf("round %d: changed %v, %v", i, changed, err)
		}
	}
	var n int
	err := db.QueryRow(t.Context(), `SELECT count(*) FROM jobs.tb_audit
		WHERE actor = 'anna' AND reason = 'why not' AND action = 'disable-type'`).Scan(&n)
	if err != nil || n != 2 {
		t.Errorf("%d rows in the audit log, want 2 (%v)", n, err)
	}
	p, err := PlanSwitch(t.Context(), db, types, false)
	if err != nil || !p.Types[0].Already || p.Types[0].Switch.ChangedBy != "anna" || p.Types[0].Switch.Reason != "why not" {
		t.Errorf("plan after the switch: %+v, %v", p, err)
	}
	if o, err := GetOverview(t.Context(), db); err != nil || !o.MultiExecution {
		t.Errorf("serverless is still on: %+v, %v", o, err)
	}
}

func TestDisablingHTTPNeedsForce(t *testing.T) {
	db := open(t)
	types := []jobs.ExecutionType{jobs.HTTP}
	if _, err := Switch(t.Context(), db, types, false, false, jobs.By{}); !errors.Is(err, ErrNeedsForce) {
		t.Errorf("without force: %v", err)
	}
	if changed, err := Switch(t.Context(), db, types, false, true, jobs.By{Actor: "x"}); err != nil || len(changed) != 1 {
		t.Errorf("with force: %v, %v", changed, err)
	}
	if changed, err := Switch(t.Context(), db, types, true, false, jobs.By{Actor: "x"}); err != nil || len(changed) != 1 {
		t.Errorf("enabling needs no force: %v, %v", changed, err)
	}
	if _, err := Switch(t.Context(), db, nil, true, false, jobs.By{}); !errors.Is(err, ErrNoTypes) {
		t.Errorf("no types: %v", err)
	}
}

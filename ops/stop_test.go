//go:build unix

package ops

import (
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/specql/specql-ops/jobs"
)

func heldReason(t *testing.T, db *pgxpool.Pool, service string) string {
	t.Helper()
	rows, err := ListJobs(t.Context(), db, Filter{Services: []string{service}, Statuses: []jobs.Status{jobs.Pending}}, Page{Size: 1})
	if err != nil || len(rows) == 0 {
		t.Fatalf("%v %v", rows, err)
	}
	return rows[0].HeldReason
}

func TestServicesAreSwitchedOnceWithTheirPlanAndTheirReasonShown(t *testing.T) {
	db := shop(t)
	by := jobs.By{Actor: "anna", Reason: "host maintenance"}
	plan, err := PlanServices(t.Context(), db, []string{"model"}, jobs.DisableService)
	if err != nil || len(plan) != 1 || plan[0].Pending != 3 || plan[0].Running != 1 || plan[0].Already {
		t.Fatalf("plan: %+v, %v", plan, err)
	}
	for _, want := range []int{1, 0} {
		if changed, err := SwitchServices(t.Context(), db, []string{"model"}, jobs.DisableService, by); err != nil || len(changed) != want {
			t.Fatalf("changed %+v, %v, want %d", changed, err, want)
		}
	}
	if got := heldReason(t, db, "model"); got != "the service is switched off: host maintenance" {
		t.Errorf("held because of %q", got)
	}
	for service, can := range map[string]bool{"script": true, "model": false, "pay": false} {
		plan, err := PlanServices(t.Context(), db, []string{service}, jobs.FallBack)
		if err != nil || plan[0].Cannot == can {
			t.Errorf("%s: %+v, %v", service, plan, err)
		}
		changed, err := SwitchServices(t.Context(), db, []string{service}, jobs.FallBack, by)
		if err != nil || (len(changed) == 1) != can {
			t.Errorf("%s fell back: %v, %v", service, changed, err)
		}
	}
	exec(t, db, `UPDATE jobs.tb_lane SET has_fallback = false WHERE service_name = 'script'`) // a reload took its base_url
	if got := heldReason(t, db, "script"); !strings.Contains(got, "gives it no base_url") {
		t.Errorf("held because of %q", got)
	}
	var fault *NameError
	if _, err := PlanServices(t.Context(), db, []string{"nobody"}, jobs.EnableService); !errors.As(err, &fault) || len(fault.Known) != 3 {
		t.Errorf("an unknown service: %v", err)
	}
	if got := one[string](t, db, `SELECT string_agg(action || ' ' || target || ' ' || reason, ', ' ORDER BY id) FROM jobs.tb_audit`); got !=
		"disable-service model host maintenance, fallback-service script host maintenance" {
		t.Errorf("audit log: %s", got)
	}
}

func TestAnEmergencyStopIsShownEverywhereAndEnds(t *testing.T) {
	db := shop(t)
	by := jobs.By{Actor: "anna", Reason: "fire"}
	for i, want := range []bool{true, false} {
		if changed, err := EmergencyStop(t.Context(), db, by); err != nil || changed != want {
			t.Fatalf("stop %d: %v, %v", i, changed, err)
		}
	}
	const words = "emergency stop: fire (anna, just now)"
	if got := heldReason(t, db, "pay"); got != words {
		t.Errorf("held because of %q", got)
	}
	if o, err := GetOverview(t.Context(), db); err != nil || o.Stopped != words || !o.MultiExecution {
		t.Errorf("overview: %+v, %v", o, err)
	}
	p, err := PlanStop(t.Context(), db)
	if err != nil || p.Stopped != words || p.Pending != 2506 || p.Running != 2 || p.Agents != 1 {
		t.Errorf("plan: %+v, %v", p, err)
	}
	for i, want := range []bool{true, false} {
		if changed, err := ResumeClaims(t.Context(), db, by); err != nil || changed != want {
			t.Fatalf("resume %d: %v, %v", i, changed, err)
		}
	}
	if o, err := GetOverview(t.Context(), db); err != nil || o.Stopped != "" {
		t.Errorf("overview: %+v, %v", o, err)
	}
}

package telemetry

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	dto "github.com/prometheus/client_model/go"

	"github.com/specql/specql-ops/jobs"
)

var update = flag.Bool("update", false, "write the table of docs/metrics.md anew")

const (
	metricsPage = "../../docs/metrics.md"
	rulesFile   = "../../deploy/prometheus/rules.yml"
	dashboard   = "../../deploy/grafana/specql.json"
)

// families are all metrics of an agent but those of Go and the process.
func families(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	queue := &Queue{now: time.Now, asked: time.Now(), last: &queueState{waiting: map[jobs.ExecutionType]int64{},
		oldest: map[jobs.ExecutionType]time.Duration{}, closed: []closedLane{{"shop", "rate_limit"}},
		costs: []laneCosts{{"resizer", 1.5, 5}}}}
	r := NewRegistry(NewFigures(everything(t)), queue)
	lint(t, r)
	all := scrape(t, r)
	maps.DeleteFunc(all, func(name string, _ *dto.MetricFamily) bool { return !strings.HasPrefix(name, "specql_") })
	if want := len(figuresDescs) + len(queueDescs); len(all) != want {
		t.Fatalf("%d metrics are shown, %d described", len(all), want)
	}
	return all
}

func TestMetricsPageListsTheMetrics(t *testing.T) {
	page, err := os.ReadFile(metricsPage)
	if err != nil {
		t.Fatal(err)
	}
	begin := regexp.MustCompile(`<!-- the table: .* -->\n`).FindIndex(page)
	end := bytes.Index(page, []byte("<!-- end of the table -->"))
	if begin == nil || end < begin[1] {
		t.Fatalf("%s has no place for the table", metricsPage)
	}
	want := metricsTable(families(t))
	if *update {
		page = slices.Concat(page[:begin[1]], want, page[end:])
		if err := os.WriteFile(metricsPage, page, 0o644); err != nil {
			t.Fatal(err)
		}
		end = begin[1] + len(want)
	}
	if have := page[begin[1]:end]; !bytes.Equal(have, want) {
		t.Errorf("%s is not what the agent shows: go test ./agent/telemetry -run MetricsPage -update\n%s", metricsPage, want)
	}
}

func metricsTable(all map[string]*dto.MetricFamily) []byte {
	var b bytes.Buffer
	fmt.Fprint(&b, "\n| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		var labels []string
		for _, l := range all[name].Metric[0].Label {
			labels = append(labels, l.GetName())
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(all[name].GetType().String()), strings.Join(labels, ", "), all[name].GetHelp())
	}
	fmt.Fprintln(&b)
	return b.Bytes()
}

var (
	metricName = regexp.MustCompile(`\b(?:specql|process|go)_[a-z0-9_]+`)
	suffix     = regexp.MustCompile(`_(?:bucket|sum|count)$`)
	labelUse   = regexp.MustCompile(`\{([^}]*)\}`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring|group_left) ?\(([^)]*)\)`)
)

// queryFaults are what a PromQL expression names that no agent shows. Whether
// it is PromQL at all scripts/check-rules tells.
func queryFaults(all map[string]*dto.MetricFamily, query string) (faults []string) {
	known := map[string]bool{"le": true, "job": true, "instance": true}
	for _, name := range metricName.FindAllString(query, -1) {
		family := all[name]
		if family == nil {
			base := suffix.ReplaceAllString(name, "")
			if f := all[base]; f != nil && (f.GetType() == dto.MetricType_HISTOGRAM || f.GetType() == dto.MetricType_SUMMARY) {
				family = f
			}
		}
		if family == nil {
			faults = append(faults, "no metric "+name)
			continue
		}
		for _, l := range family.Metric[0].Label {
			known[l.GetName()] = true
		}
	}
	var labels []string
	for _, m := range labelUse.FindAllStringSubmatch(query, -1) {
		for _, l := range matcher.FindAllStringSubmatch(m[1], -1) {
			labels = append(labels, l[1])
		}
	}
	for _, m := range grouping.FindAllStringSubmatch(query, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			labels = append(labels, strings.TrimSpace(l))
		}
	}
	for _, l := range labels {
		if l != "" && !known[l] {
			faults = append(faults, "no label "+l)
		}
	}
	return faults
}

func TestQueryFaultsAreFound(t *testing.T) {
	all := families(t)
	for query, want := range map[string]string{
		`sum by (service) (rate(specql_jobs_total{outcome="failed"}[5m]))`:                          "",
		`histogram_quantile(0.95, sum by (le, service) (rate(specql_job_wait_seconds_bucket[5m])))`: "",
		`rate(specql_jobs_totals[5m])`:         "no metric specql_jobs_totals",
		`rate(specql_jobs_total_sum[5m])`:      "no metric specql_jobs_total_sum",
		`sum by (servcie) (specql_jobs_total)`: "no label servcie",
		`specql_jobs_total{outcom="failed"}`:   "no label outcom",
	} {
		if got := strings.Join(queryFaults(all, query), "; "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

// everyFamily has those of Go and the process too.
func everyFamily(t *testing.T) map[string]*dto.MetricFamily {
	all := families(t)
	maps.Copy(all, scrape(t, NewRegistry()))
	return all
}

func TestAlertsUseMetricsThatExist(t *testing.T) {
	raw, err := os.ReadFile(rulesFile)
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr string
				Labels      struct{ Severity string }
				Annotations struct{ Summary, Description string }
			}
		}
	}
	if err := yaml.Unmarshal(raw, &rules); err != nil {
		t.Fatal(err)
	}
	all, n := everyFamily(t), 0
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			n++
			if rule.Alert == "" || rule.Labels.Severity == "" || rule.Annotations.Summary == "" || rule.Annotations.Description == "" {
				t.Errorf("alert %q is not whole: %+v", rule.Alert, rule)
			}
			for _, fault := range queryFaults(all, rule.Expr) {
				t.Errorf("alert %s: %s", rule.Alert, fault)
			}
		}
	}
	if n < 10 {
		t.Errorf("%d alerts: was the whole file read?", n)
	}
}

func TestTheDashboardUsesMetricsThatExist(t *testing.T) {
	raw, err := os.ReadFile(dashboard)
	if err != nil {
		t.Fatal(err)
	}
	type target struct{ Expr string }
	var board struct {
		UID    string
		Panels []struct {
			ID      int
			Type    string
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []target
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	all, n, ids := everyFamily(t), 0, map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q has another one's id %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		if p.GridPos.W == 0 || p.GridPos.H == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %q stands at %+v", p.Title, p.GridPos)
		}
		for _, target := range p.Targets {
			n++
			for _, fault := range queryFaults(all, target.Expr) {
				t.Errorf("panel %q: %s", p.Title, fault)
			}
		}
	}
	if n < 15 {
		t.Errorf("%d queries: was the whole file read?", n)
	}
	for _, v := range board.Templating.List {
		if v.Type == "query" {
			for _, fault := range queryFaults(all, v.Definition) {
				t.Errorf("variable %s: %s", v.Name, fault)
			}
		}
	}
}

package registry

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/expr-lang/expr"

	"github.com/specql/specql-ops/jobs"
)

// DefaultAlertWindow is what an alert's counts and rates look back on when
// the file gives no window.
const DefaultAlertWindow = time.Hour

// maxAlertNodes bounds a condition: names, numbers and operators.
const maxAlertNodes = 200

var severities = []string{"info", "warning", "critical"}

// alerts decodes and checks the alerts list; nil is a file without one.
func (d *decoder) alerts(n *node) []Alert {
	d.in, d.path = "", append(d.path[:0], "alerts")
	if !given(n) {
		return nil
	}
	if n.kind != seqKind {
		d.wrongType(n, "a list", "write - name: the_alert, followed by its condition")
		return nil
	}
	out := make([]Alert, 0, len(n.kids))
	names := map[string]int32{}
	for i := range n.kids {
		an := n.kids[i].node
		a := Alert{ExecutionType: "any", Window: DefaultAlertWindow, Severity: "warning"}
		d.in, d.path = "alert "+alertLabel(an)+": ", append(d.path[:0], "the alert")
		if an.kind == mapKind {
			d.path = d.path[:0]
		}
		if an.kind == nullKind {
			d.wrongType(an, "a mapping", "remove the empty element")
			continue
		}
		d.decode(an, reflect.ValueOf(&a).Elem(), &field{name: "alerts"})
		if an.kind != mapKind {
			continue
		}
		d.checkAlert(an, &a)
		if line, dup := names[strings.ToLower(a.Name)]; dup && a.Name != "" {
			at := orElse(an.get("name"), an)
			d.fault(at, CodeDuplicateName, fmt.Sprintf("another alert has this name in line %d", line), "rename one of them")
		}
		names[strings.ToLower(a.Name)] = an.line
		out = append(out, a)
	}
	return out
}

func (d *decoder) checkAlert(n *node, a *Alert) {
	for _, required := range []string{"name", "condition"} {
		if v := n.get(required); !given(v) || v.kind == stringKind && strings.TrimSpace(v.text) == "" {
			d.fault(orElse(v, n), CodeMissing, "it needs a "+required, "add "+required+":")
		}
	}
	if v := n.get("condition"); given(v) && strings.TrimSpace(a.Condition) != "" {
		if _, err := expr.Compile(a.Condition, expr.AllowUndefinedVariables(), expr.AsBool(), expr.DisableAllBuiltins(), expr.MaxNodes(maxAlertNodes)); err != nil {
			first, _, _ := strings.Cut(err.Error(), "\n")
			d.fault(v, CodeEnum, "the condition is not one: "+clip(first), "write a comparison such as http_error_rate > 0.05")
		}
	}
	a.ExecutionType = strings.ToLower(a.ExecutionType)
	types := []string{"any"}
	for _, t := range jobs.ExecutionTypes() {
		types = append(types, string(t))
	}
	d.oneOf(n.get("execution_type"), "execution_type", a.ExecutionType, types)
	d.oneOf(n.get("severity"), "severity", a.Severity, severities)
	if v := n.get("window"); given(v) && v.kind < mapKind && a.Window == 0 {
		d.fault(v, CodeRange, "window must be longer than nothing", "write 10m or 1h, or remove it for the last hour")
	}
}

// oneOf reports a word that is none of the words.
func (d *decoder) oneOf(n *node, name, value string, words []string) {
	if !given(n) || n.kind >= mapKind || n.exp != nil && n.exp.broken || slices.Contains(words, value) {
		return
	}
	help := "use " + oneOf(words)
	if near := nearest(value, words); near != "" {
		help = fmt.Sprintf("did you mean %q?", near)
	}
	d.fault(n, CodeEnum, fmt.Sprintf("%s is not %s", name, oneOf(words)), help)
}

func alertLabel(n *node) string {
	if name := n.get("name"); name != nil && name.text != "" {
		return fmt.Sprintf("%q", clip(name.text))
	}
	return "without a name"
}

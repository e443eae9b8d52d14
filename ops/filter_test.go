package ops

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
)

func TestParseFilter(t *testing.T) {
	id := jobs.ID{0x01, 0x9a}
	for in, want := range map[string]Filter{
		"":                          {},
		"  \t ":                     {},
		"type:shell":                {Types: []jobs.ExecutionType{jobs.Shell}},
		"TYPE:Shell,http":           {Types: []jobs.ExecutionType{jobs.Shell, jobs.HTTP}},
		"type:shell type:docker":    {Types: []jobs.ExecutionType{jobs.Shell, jobs.Docker}},
		"status:failed stripe":      {Statuses: []jobs.Status{jobs.Failed}, Text: "stripe"},
		"dead":                      {Dead: true},
		"status:Dead,pending":       {Dead: true, Statuses: []jobs.Status{jobs.Pending}},
		`"dead"`:                    {Text: "dead"},
		"service:Stripe_API":        {Services: []string{"Stripe_API"}},
		"age>1h age<2d":             {OlderThan: time.Hour, NewerThan: 48 * time.Hour},
		"age>=1.5w":                 {OlderThan: 252 * time.Hour},
		"age<90s":                   {NewerThan: 90 * time.Second},
		"two words":                 {Text: "two words"},
		`"order:17"`:                {Text: "order:17"},
		`"type:shell"`:              {Text: "type:shell"},
		"id:" + id.String():         {IDs: []jobs.ID{id}},
		"\x1b[31mred\x00":           {Text: "[31mred"},
		"\"a  b\" status:cancelled": {Text: "a  b", Statuses: []jobs.Status{jobs.Cancelled}},
	} {
		got, err := ParseFilter(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", in, got, err, want)
		}
		if back, err := ParseFilter(got.String()); err != nil || !reflect.DeepEqual(back, got) {
			t.Errorf("%q is written as %q, which reads %+v, %v", in, got.String(), back, err)
		}
	}
}

func TestParseFilterNamesWhatIsWrong(t *testing.T) {
	for in, want := range map[string]string{
		"type:magic":    `unknown execution type "magic"`,
		"type:":         "gives no value",
		"type:shell,":   "gives no value",
		"status:done":   "use pending, running",
		"id:17":         "not a job id",
		"age>":          "not an age",
		"age>x":         "not an age",
		"age>-1h":       "not an age",
		"age>NaNd":      "not an age",
		"age<1e300w":    "not an age",
		"colour:red":    `unknown filter "colour:"`,
		`"open`:         "quote is not closed",
		"age>2h age<1h": "no job is older",
	} {
		if _, err := ParseFilter(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", in, err, want)
		}
	}
}

func FuzzParseFilter(f *testing.F) {
	for _, s := range []string{"type:shell status:failed age>1h stripe", `"a b" service:x,y`, "age<0.1d", "id:zz", "\xff:", `""`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseFilter(s)
		if err != nil {
			if err.Error() == "" || !reflect.DeepEqual(got, Filter{}) {
				t.Fatalf("%q: %+v with error %v", s, got, err)
			}
			return
		}
		if got.OlderThan < 0 || got.NewerThan < 0 || strings.ContainsAny(got.Text, "\x00\n\x1b") {
			t.Fatalf("%q: %+v", s, got)
		}
		for _, typ := range got.Types {
			if _, err := jobs.ParseExecutionType(string(typ)); err != nil {
				t.Fatal(err)
			}
		}
	})
}

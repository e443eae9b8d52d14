package ops

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/specql/specql-ops/jobs"
)

// maxAge bounds age>… and age<…; nothing is older.
const maxAge = 100 * 365 * 24 * time.Hour

// ParseFilter reads a filter from the operator's words, separated by spaces:
//
//	type:shell,docker   status:failed   service:stripe_api   id:UUID
//	dead                (or status:dead) failed without attempts left
//	age>1h   age<5m     (s, m, h, d or w)
//	any other word      part of service, operation or identifier
//
// Words of one key add to each other; different keys narrow. Quotes keep a
// text together that has a space or a colon: "order:17". The error names the
// word and what is valid.
func ParseFilter(s string) (Filter, error) {
	var f Filter
	words, err := splitWords(s)
	if err != nil {
		return Filter{}, err
	}
	var text []string
	for _, w := range words {
		if w.quoted {
			text = append(text, w.text)
			continue
		}
		if plain, err := f.add(w.text); err != nil {
			return Filter{}, err
		} else if plain {
			text = append(text, w.text)
		}
	}
	f.Text = strings.Join(text, " ")
	if f.OlderThan > 0 && f.NewerThan > 0 && f.OlderThan >= f.NewerThan {
		return Filter{}, fmt.Errorf("no job is older than %s and newer than %s: age> must be below age<", f.OlderThan, f.NewerThan)
	}
	return f, nil
}

// add takes one unquoted word; plain says that it is text to look for.
func (f *Filter) add(w string) (plain bool, err error) {
	lower := strings.ToLower(w)
	switch {
	case lower == "dead":
		f.Dead = true
		return false, nil
	case strings.HasPrefix(lower, "age>"):
		f.OlderThan, err = parseAge(w, strings.TrimPrefix(lower[4:], "="))
		return false, err
	case strings.HasPrefix(lower, "age<"):
		f.NewerThan, err = parseAge(w, strings.TrimPrefix(lower[4:], "="))
		return false, err
	}
	key, values, ok := strings.Cut(w, ":")
	if !ok {
		return true, nil
	}
	for value := range strings.SplitSeq(values, ",") {
		if value == "" {
			return false, fmt.Errorf("%q gives no value: write %s:VALUE", w, key)
		}
		switch strings.ToLower(key) {
		case "type":
			t, err := jobs.ParseExecutionType(value)
			if err != nil {
				return false, err
			}
			f.Types = append(f.Types, t)
		case "status":
			if strings.EqualFold(value, "dead") {
				f.Dead = true
				continue
			}
			v, err := jobs.ParseStatus(value)
			if err != nil {
				return false, err
			}
			f.Statuses = append(f.Statuses, v)
		case "service":
			f.Services = append(f.Services, value)
		case "id":
			id, err := jobs.ParseID(value)
			if err != nil {
				return false, err
			}
			f.IDs = append(f.IDs, id)
		default:
			return false, fmt.Errorf("unknown filter %q: use type:, status:, service:, id:, age> or age<, or quote a text with a colon: %q", key+":", w)
		}
	}
	return false, nil
}

func parseAge(word, s string) (time.Duration, error) {
	bad := fmt.Errorf("%q is not an age: write a positive number with s, m, h, d or w, such as age>1h", word)
	if s == "" {
		return 0, bad
	}
	unit := time.Duration(0)
	switch s[len(s)-1] {
	case 'd':
		unit = 24 * time.Hour
	case 'w':
		unit = 7 * 24 * time.Hour
	default:
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > maxAge {
			return 0, bad
		}
		return d, nil
	}
	n, err := strconv.ParseFloat(s[:len(s)-1], 64)
	if err != nil || !(n > 0) || n > float64(maxAge/unit) {
		return 0, bad
	}
	d := time.Duration(n * float64(unit))
	if d <= 0 {
		return 0, bad
	}
	return d, nil
}

// String writes the filter as words that ParseFilter reads.
func (f Filter) String() string {
	var words []string
	list := func(key string, values ...string) {
		if len(values) > 0 {
			words = append(words, key+":"+strings.Join(values, ","))
		}
	}
	list("type", texts(f.Types)...)
	statuses := texts(f.Statuses)
	if f.Dead {
		statuses = append(statuses, "dead")
	}
	list("status", statuses...)
	list("service", f.Services...)
	ids := make([]string, len(f.IDs))
	for i, id := range f.IDs {
		ids[i] = id.String()
	}
	list("id", ids...)
	if f.OlderThan > 0 {
		words = append(words, "age>"+f.OlderThan.String())
	}
	if f.NewerThan > 0 {
		words = append(words, "age<"+f.NewerThan.String())
	}
	if f.Text != "" {
		words = append(words, `"`+f.Text+`"`)
	}
	return strings.Join(words, " ")
}

func texts[T ~string](list []T) []string {
	out := make([]string, len(list))
	for i, v := range list {
		out[i] = string(v)
	}
	return out
}

type word struct {
	text   string
	quoted bool
}

// splitWords cuts at white space outside of double quotes. Control characters
// and bytes that are not UTF-8 cannot be in the table's texts.
func splitWords(s string) ([]word, error) {
	var out []word
	var b strings.Builder
	in, open, quoted := false, false, false
	flush := func() {
		if in {
			out = append(out, word{b.String(), quoted})
		}
		b.Reset()
		in, quoted = false, false
	}
	for _, r := range strings.ToValidUTF8(s, "") {
		switch {
		case r == '"':
			open, in, quoted = !open, true, true
		case unicode.IsSpace(r) && !open:
			flush()
		case unicode.IsControl(r):
		default:
			b.WriteRune(r)
			in = true
		}
	}
	if open {
		return nil, fmt.Errorf("a quote is not closed in %q: add a \"", s)
	}
	flush()
	return out, nil
}

// FilterWord is a name as a value of service: in a filter; empty where no filter
// can hold it.
func FilterWord(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return unicode.IsSpace(r) || r == ',' || r == '"' }) {
		return ""
	}
	return name
}

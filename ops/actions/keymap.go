package actions

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// Keymap says which key does what. Make one with NewKeymap.
type Keymap struct {
	byKey map[Place]map[string]ID
	keys  map[ID][]string
}

// fixed keys move a cursor or end a dialog in every place; they cannot be
// bound to anything else.
var fixed = []string{"up", "down", "left", "right", "pgup", "pgdown", "home", "end", "ctrl+c"}

// NewKeymap binds every action's own keys, or those that changed gives it: an
// empty list takes an action's keys away. The error names every unknown action
// and every key that would mean two things in one place.
func NewKeymap(changed map[ID][]string) (Keymap, error) {
	m := Keymap{byKey: map[Place]map[string]ID{}, keys: map[ID][]string{}}
	var faults []error
	for _, id := range slices.Sorted(maps.Keys(changed)) {
		if _, ok := Find(id); !ok {
			faults = append(faults, fmt.Errorf("there is no action %q: docs/keys.md lists them", id))
		}
	}
	for _, a := range all {
		keys, ok := changed[a.ID]
		if !ok {
			keys = a.Keys
		}
		m.keys[a.ID] = keys
		for _, k := range keys {
			switch other, taken := m.Find(a.Place, k); {
			case k == "" || slices.Contains(fixed, k):
				faults = append(faults, fmt.Errorf("%s: the key %q cannot be bound", a.ID, k))
				continue
			case taken && (other == a.ID || Must(other).Place == a.Place || a.Place == Everywhere):
				faults = append(faults, fmt.Errorf("%s: the key %q does %s already", a.ID, k, other))
				continue
			case taken: // a page's own key goes before one that works everywhere
				faults = append(faults, fmt.Errorf("%s: the key %q does %s everywhere", a.ID, k, other))
				continue
			}
			if m.byKey[a.Place] == nil {
				m.byKey[a.Place] = map[string]ID{}
			}
			m.byKey[a.Place][k] = a.ID
		}
	}
	return m, errors.Join(faults...)
}

// Find is what a key does in a place.
func (m Keymap) Find(p Place, key string) (ID, bool) {
	if id, ok := m.byKey[p][key]; ok {
		return id, true
	}
	id, ok := m.byKey[Everywhere][key]
	return id, ok
}

// Keys are an action's keys, as a person reads them: "esc, backspace".
func (m Keymap) Keys(id ID) string { return strings.Join(m.keys[id], ", ") }

// First is an action's first key; empty: it has none.
func (m Keymap) First(id ID) string {
	if len(m.keys[id]) == 0 {
		return ""
	}
	return m.keys[id][0]
}

// BindingsFile is where bindings are looked for: what SPECQL_KEYS names, else
// specql/keys.yaml in the user's configuration folder.
func BindingsFile(getenv func(string) string) string {
	if name := getenv("SPECQL_KEYS"); name != "" {
		return name
	}
	folder := cmp.Or(getenv("XDG_CONFIG_HOME"), filepath.Join(getenv("HOME"), ".config"))
	return filepath.Join(folder, "specql", "keys.yaml")
}

// ReadKeymap reads the file of bindings; without one every action has its own
// keys. The file maps actions to keys:
//
//	jobs.retry: R
//	jobs.cancel: [x, ctrl+k]
func ReadKeymap(file string) (Keymap, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		return NewKeymap(nil)
	}
	if err != nil {
		return Keymap{}, fmt.Errorf("read the key bindings: %w", err)
	}
	changed, err := parseBindings(text)
	if err != nil {
		return Keymap{}, fmt.Errorf("%s: %w", file, err)
	}
	m, err := NewKeymap(changed)
	if err != nil {
		return m, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

func parseBindings(text []byte) (map[ID][]string, error) {
	var raw map[string]any
	if err := yaml.Unmarshal(text, &raw); err != nil {
		return nil, err
	}
	out := map[ID][]string{}
	for name, v := range raw {
		keys := []string{}
		switch v := v.(type) {
		case nil:
		case []any:
			for _, k := range v {
				keys = append(keys, fmt.Sprint(k))
			}
		default:
			keys = append(keys, fmt.Sprint(v))
		}
		out[ID(name)] = keys
	}
	return out, nil
}

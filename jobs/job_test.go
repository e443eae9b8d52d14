package jobs

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestIDsReadWhatTheyWrite(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var id ID
		copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
		back, err := ParseID(id.String())
		if err != nil || back != id {
			t.Fatalf("%s read as %s: %v", id, back, err)
		}
	})
	for _, bad := range []string{"", "x", "9aa260a2-3c55-4d7e-803b-9e8657e0f6", "9aa260a2-3c55-4d7e-803b-9e8657e0f63g"} {
		if _, err := ParseID(bad); err == nil {
			t.Errorf("%q was read as an id", bad)
		}
	}
}

func TestNewIDsAreOrderedByTimeAndOfVersionSeven(t *testing.T) {
	before := NewID()
	if before[6]>>4 != 7 || before[8]>>6 != 2 {
		t.Errorf("%s is not a uuid of version 7", before)
	}
	later := before
	for start := time.Now(); bytes.Equal(later[:6], before[:6]); {
		later = NewID()
		if time.Since(start) > time.Minute {
			t.Fatal("the time part never moves")
		}
	}
	if bytes.Compare(before[:6], later[:6]) >= 0 {
		t.Errorf("%s comes after %s", before, later)
	}
}

func TestWordsAreReadInAnyCaseAndOthersRefusedByName(t *testing.T) {
	if got, err := ParseExecutionType(" HTTP "); err != nil || got != HTTP {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := ParseStatus("Failed"); err != nil || got != Failed {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := ParseExecutionType("ftp"); err == nil {
		t.Error("ftp was taken for a type")
	}
	if _, err := ParseStatus("done"); err == nil {
		t.Error("done was taken for a status")
	}
}

func TestQuantilesAreRightWithinATenth(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var whole, half Histogram
	var all []time.Duration
	for i := range 20_000 {
		d := time.Duration(random.ExpFloat64() * float64(80*time.Millisecond))
		d = max(d, time.Millisecond)
		all = append(all, d)
		if i%2 == 0 {
			whole.Add(d)
		} else {
			half.Add(d)
		}
	}
	whole.Merge(half[:])
	slices.Sort(all)
	for _, q := range []float64{0.5, 0.95, 0.99} {
		want := all[int(q*float64(len(all)))]
		if got := whole.Quantile(q); got < want*9/10 || got > want*11/10 {
			t.Errorf("quantile %v: %s, of the durations themselves %s", q, got, want)
		}
	}
	if whole.Count() != 20_000 {
		t.Errorf("counted %d", whole.Count())
	}
	var empty Histogram
	if empty.Quantile(0.5) != 0 {
		t.Error("nothing counted, yet a quantile")
	}
	whole.Add(1000 * time.Hour) // beyond the last bound: counted, not lost
	if whole.Count() != 20_001 {
		t.Error("a very long duration was lost")
	}
}

func FuzzParseSignal(f *testing.F) {
	f.Add("specql_control", "cancel 9aa260a2-3c55-4d7e-803b-9e8657e0f636")
	f.Add("specql_control", "switch shell")
	f.Fuzz(func(t *testing.T, channel, payload string) {
		if s, ok := parseSignal(channel, payload); !ok && s.Kind == Switched && s.Type != "" {
			t.Errorf("a refused signal carries %v", s)
		}
	})
}

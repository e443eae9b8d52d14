package parts

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Duration is at most 7 cells: "850 µs", "12 ms", "1.25 s", "59 min",
// "23.5 h", "12 d". Zero and less is "–".
func Duration(d time.Duration) string {
	switch {
	case d <= 0:
		return "–"
	case d < time.Millisecond:
		return strconv.FormatInt(max(d.Microseconds(), 1), 10) + " µs"
	case d < 999500*time.Microsecond:
		return strconv.FormatInt(d.Round(time.Millisecond).Milliseconds(), 10) + " ms"
	case d < 9950*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + " s"
	case d < 99500*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 0, 64) + " s"
	case d < 99*time.Minute+30*time.Second:
		return strconv.FormatFloat(d.Minutes(), 'f', 0, 64) + " min"
	case d < 48*time.Hour:
		return strconv.FormatFloat(d.Hours(), 'f', 1, 64) + " h"
	default:
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + " d"
	}
}

// Age is a Duration in whole units, for what only grows: "now", "3 s",
// "12 min", "5 h", "12 d".
func Age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "now"
	case d < 100*time.Second:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < 100*time.Minute:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	default:
		return strconv.FormatInt(int64(d/(24*time.Hour)), 10) + " d"
	}
}

// Since is the Age of a moment at now; the zero time is "–".
func Since(now, t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return Age(now.Sub(t))
}

// Count groups thousands up to 999,999 and shortens above: "1.2 M". A capped
// count ends in "+".
func Count(n int64, capped bool) string {
	s := ""
	switch {
	case n < 1000:
		s = strconv.FormatInt(n, 10)
	case n < 1_000_000:
		s = fmt.Sprintf("%d,%03d", n/1000, n%1000)
	case n < 1_000_000_000:
		s = strconv.FormatFloat(float64(n)/1e6, 'f', 1, 64) + " M"
	default:
		s = strconv.FormatFloat(float64(n)/1e9, 'f', 1, 64) + " G"
	}
	if capped {
		s += "+"
	}
	return s
}

// Rate is jobs a second: "0/s", "0.4/s", "12/s", "1,234/s".
func Rate(perSecond float64) string {
	switch {
	case math.IsNaN(perSecond) || perSecond < 0.05:
		return "0/s"
	case perSecond < 9.95:
		return strconv.FormatFloat(perSecond, 'f', 1, 64) + "/s"
	default:
		return Count(int64(math.Round(perSecond)), false) + "/s"
	}
}

// Success is the share that did not fail: "99.2 %". "100 %" means none
// failed at all; nothing finished is "–".
func Success(completed, failed int64) string {
	switch {
	case completed+failed == 0:
		return "–"
	case failed == 0:
		return "100 %"
	}
	share := 100 * float64(completed) / float64(completed+failed)
	return strconv.FormatFloat(min(math.Floor(share*10)/10, 99.9), 'f', 1, 64) + " %"
}

// Percent is a share of one CPU; nil is "–".
func Percent(v *float64) string {
	if v == nil {
		return "–"
	}
	return strconv.FormatFloat(*v, 'f', 0, 64) + " %"
}

// Memory is MiB: "128 MB", "1.5 GB"; nil is "–".
func Memory(mb *float64) string {
	switch {
	case mb == nil:
		return "–"
	case *mb < 9.95:
		return strconv.FormatFloat(*mb, 'f', 1, 64) + " MB"
	case *mb < 1000:
		return strconv.FormatFloat(*mb, 'f', 0, 64) + " MB"
	default:
		return strconv.FormatFloat(*mb/1024, 'f', 1, 64) + " GB"
	}
}

package parts

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/charmbracelet/x/ansi"
)

// Clean makes text from a job, an agent or an error safe to print on one
// line. Whoever can insert a job writes its text: an escape sequence in it
// must not move the cursor, and a direction mark must not make one command
// look like another. Control, format and private characters and broken UTF-8
// become "·", white space becomes one blank each.
func Clean(s string) string {
	if printableASCII(s) {
		return s
	}
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t' || r == '\n' || r == '\r' || unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, unicode.IsControl(r), unicode.In(r, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp):
			return '·'
		}
		return r
	}, strings.ToValidUTF8(s, "·"))
}

// CleanLines is Clean for text of many lines; tabs become two blanks.
func CleanLines(s string) []string {
	lines := strings.Split(strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\t", "  "), "\n")
	for i := range lines {
		lines[i] = Clean(lines[i])
	}
	return lines
}

func printableASCII(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// Width is how many cells s takes on the screen; escape sequences take none.
func Width(s string) int {
	if printableASCII(s) {
		return len(s)
	}
	return ansi.StringWidth(s)
}

// Fit cuts or pads s to exactly w cells. What was cut ends in "…".
func Fit(s string, w int) string {
	if w <= 0 {
		return ""
	}
	n := Width(s)
	if n > w {
		s = ansi.Truncate(s, w, "…")
		n = Width(s)
	}
	return s + blanks(w-n)
}

// FitRight is Fit for figures: padded on the left.
func FitRight(s string, w int) string {
	if n := Width(s); n <= w {
		return blanks(w-n) + s
	}
	return Fit(s, w)
}

const blank64 = "                                                                "

func blanks(n int) string {
	if n <= 0 {
		return ""
	}
	if n <= len(blank64) {
		return blank64[:n]
	}
	return strings.Repeat(" ", n)
}

// Wrap breaks plain text into lines of at most w cells, at blanks where it
// can. It returns at least one line.
func Wrap(s string, w int) []string {
	if w <= 0 {
		return []string{""}
	}
	return strings.Split(ansi.Wrap(s, w, ""), "\n")
}

// ShortHash is a registry version as people compare it: seven characters.
func ShortHash(hash string) string {
	if hash == "" {
		return "none"
	}
	hash = Clean(hash)
	return hash[:min(len(hash), 7)]
}

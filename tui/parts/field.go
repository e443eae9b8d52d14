package parts

import "slices"

const fieldMost = 500 // runes

// Field is a line of text being typed.
type Field struct {
	text []rune
	at   int
}

// Text is what was typed.
func (f *Field) Text() string { return string(f.text) }

// Set replaces the text and puts the cursor at its end.
func (f *Field) Set(s string) { f.text = []rune(s); f.at = len(f.text) }

// Insert types or pastes s at the cursor, cleaned.
func (f *Field) Insert(s string) {
	runes := []rune(Clean(s))
	runes = runes[:min(len(runes), fieldMost-len(f.text))]
	f.text = slices.Insert(f.text, f.at, runes...)
	f.at += len(runes)
}

// Key takes a key press: its name and the text that it types. ok is false
// where the key means nothing to a field.
func (f *Field) Key(name, text string) (ok bool) {
	switch name {
	case "left":
		f.at = max(f.at-1, 0)
	case "right":
		f.at = min(f.at+1, len(f.text))
	case "home", "ctrl+a":
		f.at = 0
	case "end", "ctrl+e":
		f.at = len(f.text)
	case "backspace":
		if f.at > 0 {
			f.text = slices.Delete(f.text, f.at-1, f.at)
			f.at--
		}
	case "delete":
		if f.at < len(f.text) {
			f.text = slices.Delete(f.text, f.at, f.at+1)
		}
	case "ctrl+u":
		f.text, f.at = f.text[f.at:], 0
	case "ctrl+w":
		from := f.at
		for from > 0 && f.text[from-1] == ' ' {
			from--
		}
		for from > 0 && f.text[from-1] != ' ' {
			from--
		}
		f.text, f.at = slices.Delete(f.text, from, f.at), from
	default:
		if text == "" {
			return false
		}
		f.Insert(text)
	}
	return true
}

// View is the text in w cells, with a block for the cursor when focused. A
// text that is too long shows the part around the cursor.
func (f *Field) View(t *Theme, w int, focused bool) string {
	if !focused {
		return Fit(string(f.text), w)
	}
	from := 0
	for from < f.at && Width(string(f.text[from:f.at])) > w-1 {
		from++
	}
	under, rest := " ", ""
	if f.at < len(f.text) {
		under, rest = string(f.text[f.at]), string(f.text[f.at+1:])
	}
	return Fit(string(f.text[from:f.at])+cursor.Render(under)+rest, w)
}

var cursor = Style{"\x1b[7m"}

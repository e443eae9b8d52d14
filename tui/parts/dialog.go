package parts

import "time"

// Grace is how long a dialog that appears swallows every key: what was typed
// for the page beneath must not confirm it.
const Grace = 400 * time.Millisecond

// Button draws a dialog's button; disabled is one that would only say why not.
func Button(th *Theme, text string, focused, disabled bool) string {
	switch {
	case focused && disabled:
		return th.Muted.Render("▸[ " + text + " ]")
	case focused:
		return th.Selected.Render("▸[ " + text + " ]")
	case disabled:
		return th.Muted.Render(" [ " + text + " ]")
	default:
		return th.Text.Render(" [ " + text + " ]")
	}
}

// Input draws a dialog's field with its label, width cells wide.
func Input(th *Theme, label string, f *Field, focused bool, width int) string {
	style, mark := th.Muted, "  "
	if focused {
		style, mark = th.Focus, "▸ "
	}
	head := mark + Fit(label, 22)
	return style.Render(head) + th.Border.Render("[") + f.View(th, width-Width(head)-2, focused) + th.Border.Render("]")
}

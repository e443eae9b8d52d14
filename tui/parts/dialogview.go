package parts

import (
	"strings"
)

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

// Entry draws a dialog's field with its label, width cells wide.
func Entry(th *Theme, label string, f *Field, focused bool, width int) string {
	style, mark := th.Muted, "  "
	if focused {
		style, mark = th.Focus, "▸ "
	}
	head := mark + Fit(label, 22)
	return style.Render(head) + th.Border.Render("[") + f.View(th, width-Width(head)-2, focused) + th.Border.Render("]")
}

// View is the dialog's box for a screen of w × h.
func (d *Dialog) View(th *Theme, w, h int) []string {
	bw := min(w-4, 76)
	if d.stage == askShowing {
		bw = min(w-4, 116)
	}
	inner := bw - 4
	var lines []string
	switch d.stage {
	case askChoosing:
		lines = d.choices(th, inner, h-4)
	case askPlanning:
		lines = []string{th.Muted.Render("Reading what it will do …"), "", th.Muted.Render("esc cancels")}
	case askAsking:
		lines = d.question(th, inner, h-2)
	case askWorking:
		lines = d.progress(th, inner)
	case askFinished:
		lines = d.result(th, inner)
	case askShowing:
		lines = d.scrolled(th, inner, h-4)
	}
	return Framed(lines, bw, " "+th.Strong.Render(Fit(d.ask.Title, min(Width(d.ask.Title), bw-8)))+" ", "", th.Accent)
}

func (d *Dialog) choices(th *Theme, inner, most int) []string {
	var lines []string
	from := max(0, min(d.choice-most/2, len(d.ask.Choices)-most))
	for i, c := range d.ask.Choices {
		if i < from || i >= from+most {
			continue
		}
		text := " " + Fit(c.Key, 3) + " " + c.Text
		if i == d.choice {
			lines = append(lines, th.Selected.Render(Fit("▸"+text, inner)))
		} else {
			lines = append(lines, th.Text.Render(Fit(" "+text, inner)))
		}
	}
	return lines
}

func (d *Dialog) question(th *Theme, inner, most int) []string {
	var above, below []string
	if d.plan.Warning != "" {
		for _, l := range Wrap("✕ "+d.plan.Warning, inner) {
			above = append(above, th.Bad.Render(l))
		}
	}
	for _, sentence := range d.plan.Effects {
		for i, l := range Wrap(sentence, inner-2) {
			mark := "  "
			if i == 0 {
				mark = "· "
			}
			above = append(above, th.Text.Render(mark+l))
		}
	}
	if d.plan.Name != "" {
		below = append(below, Entry(th, "Type "+d.plan.Name+" to go on", &d.name, d.at == 0, inner))
	}
	first := d.firstField()
	room := max(most-len(above)-6, 1)
	from := max(0, min(d.at-first-room/2, len(d.fields)-room))
	for i := range d.fields {
		if i >= from && i < from+room {
			below = append(below, Entry(th, d.ask.Fields[i].Label, &d.fields[i], d.at == first+i, inner))
		}
	}
	if !d.plan.Plain {
		want := "Reason (if any)"
		if d.plan.Reason {
			want = "Reason"
		}
		below = append(below, Entry(th, want, &d.reason, d.at == d.reasonAt(), inner))
	}
	buttons := Button(th, d.plan.Leave, d.at == d.leave(), false) + "  " + Button(th, d.plan.Action, d.at == d.action(), d.missing() != "")
	hint := d.hint
	switch i := d.at - first; {
	case hint != "":
	case i >= 0 && i < len(d.fields):
		hint = d.ask.Fields[i].Hint
	case d.at == d.action():
		hint = d.missing()
	}
	lines := above
	gaps := most - len(above) - len(below) - 4
	if gaps > 0 && len(above) > 0 {
		lines = append(lines, "")
	}
	lines = append(lines, below...)
	if gaps > 1 {
		lines = append(lines, "")
	}
	return append(lines, buttons, th.Warn.Render(Fit(hint, inner)))
}

func (d *Dialog) progress(th *Theme, inner int) []string {
	if !d.ask.Lasts {
		return []string{th.Accent.Render("● Working …")}
	}
	text := Count(d.done, false) + " done"
	bar := ""
	if d.plan.Total > 0 {
		text = Count(d.done, false) + " of " + Count(d.plan.Total, false)
		full := int(int64(inner) * min(d.done, d.plan.Total) / d.plan.Total)
		bar = th.Accent.Render(strings.Repeat("━", full)) + th.Border.Render(strings.Repeat("─", inner-full))
	}
	return []string{th.Text.Render("● " + text), bar, "", th.Muted.Render("esc stops here; what is done stays done")}
}

// scrolled shows lines; those of a diff are told apart.
func (d *Dialog) scrolled(th *Theme, inner, most int) (out []string) {
	d.height = min(most, len(d.shown))
	d.top = min(max(d.top, 0), len(d.shown)-d.height)
	for _, l := range d.shown[d.top : d.top+d.height] {
		style := th.Text
		switch {
		case strings.HasPrefix(l, "+"):
			style = th.Good
		case strings.HasPrefix(l, "-"):
			style = th.Bad
		case strings.HasPrefix(l, "@@"):
			style = th.Accent
		}
		out = append(out, style.Render(Fit(Clean(strings.ReplaceAll(l, "\t", "  ")), inner)))
	}
	return out
}

func (d *Dialog) result(th *Theme, inner int) []string {
	style := th.Good
	if d.outcome.Bad {
		style = th.Bad
	}
	var lines []string
	for _, text := range d.outcome.Lines {
		for _, l := range Wrap(text, inner) {
			lines = append(lines, style.Render(l))
		}
		style = th.Text
	}
	if d.outcome.Undo != nil {
		lines = append(lines, th.Muted.Render("u takes it back"))
	}
	return append(lines, "", Button(th, "Close", true, false))
}

//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/specql/specql-ops/internal/screen"
)

func (s *story) sit(args []string) error {
	n, err := strconv.Atoi(strings.Join(args, ""))
	if err != nil || n < 1 || n > len(s.consoles) {
		return fmt.Errorf("there are consoles 1 to %d", len(s.consoles))
	}
	s.at = s.consoles[n-1]
	return nil
}

var keyNames = map[string]string{"enter": "\r", "esc": "\x1b", "tab": "\t", "shift+tab": "\x1b[Z", "space": " ", "backspace": "\x7f",
	"up": "\x1b[A", "down": "\x1b[B", "right": "\x1b[C", "left": "\x1b[D", "pgup": "\x1b[5~", "pgdown": "\x1b[6~",
	"ctrl+c": "\x03", "ctrl+z": "\x1a", "ctrl+u": "\x15"}

// key is what a terminal sends for a key's name; other words are themselves, and
// those after "ctrl+u " come once the field is empty.
func key(word string) string {
	if text, ok := strings.CutPrefix(word, "ctrl+u "); ok {
		return keyNames["ctrl+u"] + text
	}
	if text, ok := keyNames[word]; ok {
		return text
	}
	return word
}

// press sends the keys at once, however slow the machine is: a dialog that opens
// on one of them counts the time until it takes the others.
func (s *story) press(args []string) error {
	var keys strings.Builder
	for _, word := range args {
		keys.WriteString(key(word))
	}
	return s.at.Type(keys.String())
}

func (s *story) typeText(args []string) error { return s.at.Type(strings.Join(args, " ")) }

func (s *story) expect(args []string) error { return s.at.Expect(s.ctx, args...) }

func (s *story) line(args []string) error {
	if err := takes(args, 1, 1, "line REGEXP"); err != nil {
		return err
	}
	re, err := regexp.Compile("(?m)" + args[0])
	if err != nil {
		return err
	}
	return s.at.Until(s.ctx, "a line that matches "+args[0], re.MatchString)
}

func (s *story) gone(args []string) error {
	return s.at.Until(s.ctx, "without "+strings.Join(args, ", "), func(text string) bool { return !holdsAny(text, args) })
}

func holdsAny(text string, words []string) bool {
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}

func (s *story) until(args []string) error {
	if err := takes(args, 2, 2, "until KEY TEXT"); err != nil {
		return err
	}
	return s.insist(args[0], "shows "+args[1], holds(args[1]))
}

// choose presses a key of a dialog, for its next question.
func (s *story) choose(args []string) error {
	if err := takes(args, 2, 2, "choose KEY TEXT"); err != nil {
		return err
	}
	return s.answer(args[0], "shows "+args[1], holds(args[1]))
}

func (s *story) focus(args []string) error {
	if err := takes(args, 1, 1, "focus TEXT"); err != nil {
		return err
	}
	return s.move("▸" + args[0])
}

func (s *story) away(args []string) error {
	if err := takes(args, 2, 2, "away KEY TEXT"); err != nil {
		return err
	}
	return s.answer(args[0], "hides "+args[1], func(text string) bool { return !strings.Contains(text, args[1]) })
}

// insist presses a key of a page until the screen is as wanted: a page that has
// not read yet what the key is about does nothing. It is patient, since a key
// that is only slow to show would be pressed twice.
func (s *story) insist(word, what string, wanted func(text string) bool) error {
	for {
		if wanted(s.at.Text()) {
			return nil
		}
		if err := s.at.Type(key(word)); err != nil {
			return err
		}
		err := s.within(20*time.Second, what, wanted)
		if err == nil || s.ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// answer presses a key of a dialog once, and waits for what comes of it.
func (s *story) answer(word, what string, wanted func(text string) bool) error {
	text, err := s.ready()
	if err != nil || wanted(text) {
		return err
	}
	if err := s.at.Type(key(word)); err != nil {
		return err
	}
	return s.at.Until(s.ctx, what, wanted)
}

// dialogKeys ends the line of keys of every dialog. The pages' end otherwise:
// theirs may still stand there when a dialog is half drawn.
var dialogKeys = regexp.MustCompile(`(?:^|\n)[^\n]*esc (?:cancel|close)\n*$`)

// ready is the screen with a dialog that takes keys. One that has just appeared
// swallows them, and shows none till then.
func (s *story) ready() (text string, err error) {
	err = s.at.Until(s.ctx, "a dialog's line of keys", func(now string) bool {
		text = now
		return dialogKeys.MatchString(now)
	})
	return text, err
}

func (s *story) within(limit time.Duration, what string, wanted func(text string) bool) error {
	try, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	return s.at.Until(try, what, wanted)
}

// under is the row that has the cursor.
func under(text string) string {
	for line := range strings.Lines(text) {
		if _, at, ok := strings.Cut(line, "▸"); ok && !strings.HasPrefix(at, "[") {
			return strings.TrimSpace(at)
		}
	}
	return ""
}

func (s *story) onto(args []string) error {
	if err := takes(args, 1, 1, "onto TEXT"); err != nil {
		return err
	}
	if at := under(s.at.Text()); at != "" && !strings.Contains(at, args[0]) {
		if err := s.at.Type("g"); err != nil {
			return err
		}
		if err := s.within(time.Second, "the cursor moves", func(text string) bool { return under(text) != at }); err != nil && s.ctx.Err() != nil {
			return err
		}
	}
	for range 60 {
		at := under(s.at.Text())
		if strings.Contains(at, args[0]) {
			return nil
		}
		if err := s.at.Type("j"); err != nil {
			return err
		}
		// Each key is waited for: one more would go past the row.
		err := s.within(2*time.Second, "the cursor moves", func(text string) bool { now := under(text); return now != "" && now != at })
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
	return fmt.Errorf("no row has %q:\n%s", args[0], s.at.Text())
}

// move presses tab until the focus of the dialog is on a text. Each one is waited
// for: one more would go past it.
func (s *story) move(to string) error {
	for {
		before, err := s.ready()
		if err != nil || strings.Contains(before, to) {
			return err
		}
		if err := s.at.Type("\t"); err != nil {
			return err
		}
		if err := s.at.Until(s.ctx, "the focus moving on to "+to, func(text string) bool { return focus(text) != focus(before) }); err != nil {
			return err
		}
	}
}

// focus is what has a dialog's cursor: in its frame, not in a list below it.
func focus(text string) string {
	for line := range strings.Lines(text) {
		if before, at, ok := strings.Cut(line, "▸"); ok && strings.Contains(before, "│") {
			return at
		}
	}
	return ""
}

func holds(part string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, part) }
}

func (s *story) fill(args []string) error {
	if err := takes(args, 2, 2, "fill LABEL TEXT"); err != nil {
		return err
	}
	field := regexp.MustCompile(`│[ ▸]+` + regexp.QuoteMeta(args[0]) + ` [^\n]*\[`)
	if err := s.at.Until(s.ctx, "a field "+args[0], field.MatchString); err != nil {
		return err
	}
	if err := s.move("▸ " + args[0]); err != nil {
		return err
	}
	filled := regexp.MustCompile("▸ " + regexp.QuoteMeta(args[0]) + `[^\n]*\[` + regexp.QuoteMeta(args[1]))
	return s.answer("ctrl+u "+args[1], "holds "+args[1], filled.MatchString)
}

func (s *story) confirm(args []string) error {
	if err := takes(args, 1, 2, "confirm VERB [REASON]"); err != nil {
		return err
	}
	if err := s.at.Expect(s.ctx, "[ "+args[0]+" ]", "enter take it"); err != nil {
		return err
	}
	if len(args) == 2 {
		if err := s.fill([]string{"Reason", args[1]}); err != nil {
			return err
		}
	}
	if err := s.move("▸[ " + args[0] + " ]"); err != nil {
		return err
	}
	if err := s.at.Type("\r"); err != nil {
		return err
	}
	return s.at.Expect(s.ctx, "[ Close ]")
}

func (s *story) closeDialog([]string) error { return s.away([]string{"esc", "[ Close ]"}) }

func (s *story) copied(args []string) error {
	want := strings.Join(args, " ")
	return s.at.Until(s.ctx, "a clipboard with "+want, func(string) bool { return strings.Contains(s.at.Clipboard(), want) })
}

func (s *story) resize(args []string) error {
	cols, rows, ok := parseSize(strings.Join(args, ""))
	if !ok {
		return errors.New("usage: resize COLSxROWS")
	}
	return s.at.Resize(cols, rows)
}

// picturesVariable names the folder that pictures go to.
const picturesVariable = "SPECQL_PICTURES"

// warm gives the figures time to grow, where somebody will look at the picture.
func (s *story) warm(args []string) error {
	d, err := time.ParseDuration(strings.Join(args, ""))
	if err != nil || os.Getenv(picturesVariable) == "" {
		return err
	}
	select {
	case <-time.After(d):
	case <-s.ctx.Done():
	}
	return nil
}

// screenshot keeps a picture in the folder for the documentation; without one it
// is made and not kept.
func (s *story) screenshot(args []string) error {
	if err := takes(args, 1, 1, "screenshot FILE"); err != nil {
		return err
	}
	dir := os.Getenv(picturesVariable)
	if dir == "" {
		dir = s.dir
	}
	file, err := os.Create(filepath.Join(dir, args[0]))
	if err != nil {
		return err
	}
	return errors.Join(s.at.Picture(file, screen.Fonts), file.Close())
}

func (s *story) signal(args []string) error {
	signals := map[string]syscall.Signal{"HUP": syscall.SIGHUP, "TERM": syscall.SIGTERM, "QUIT": syscall.SIGQUIT}
	n, ok := signals[strings.Join(args, "")]
	if !ok {
		return errors.New("usage: signal HUP|TERM|QUIT")
	}
	return s.at.Signal(n)
}

func (s *story) leaves(args []string) error {
	want := 0
	if len(args) > 0 {
		var err error
		if want, err = strconv.Atoi(args[0]); err != nil {
			return err
		}
	}
	err := s.at.Wait(s.ctx)
	have := 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		have = exit.ExitCode()
	} else if err != nil {
		return err
	}
	if have != want {
		return fmt.Errorf("the console ended with %d, want %d:\n%s", have, want, s.at.Text())
	}
	return nil
}

func (s *story) click(args []string) error {
	text := strings.Join(args, " ")
	y := 0
	for line := range strings.Lines(s.at.Text()) {
		if before, _, ok := strings.Cut(line, text); ok {
			x := utf8.RuneCountInString(before)
			return s.at.Type(fmt.Sprintf("\x1b[<0;%d;%dM\x1b[<0;%d;%dm", x+2, y+1, x+2, y+1))
		}
		y++
	}
	return fmt.Errorf("%q is not on the screen:\n%s", text, s.at.Text())
}

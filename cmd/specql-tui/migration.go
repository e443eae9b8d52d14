package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/specql/specql-ops/registry"
)

func migrationCheck(c *common) *cobra.Command {
	var fix string
	var readiness bool
	cmd := &cobra.Command{
		Use:   "migration-check FILE",
		Short: "Find deprecated and risky patterns in a registry, and rewrite them",
		Long: "Lists each pattern with its code, its line, what to write instead and why; explain CODE says more.\n" +
			"--fix rewrites what can be rewritten without changing what the file means, and keeps comments, order\n" +
			"and formatting; it shows the change first, as a diff. --fix=dry-run shows it and writes nothing.\n" +
			"--readiness shows what each service still lacks of the guide's phase 2. Needs no database. Ends with 1\n" +
			"when something was found, after --fix when something is left; 3 when the file is not YAML.",
		Example: "  specql-tui migration-check registry/service_registry.yaml\n" +
			"  specql-tui migration-check registry/service_registry.yaml --fix=dry-run\n" +
			"  specql-tui migration-check registry/service_registry.yaml --readiness",
		Args: usage(cobra.ExactArgs(1)),
	}
	cmd.Flags().StringVar(&fix, "fix", "", "rewrite the file; =dry-run only shows how")
	cmd.Flags().Lookup("fix").NoOptDefVal = "write"
	cmd.Flags().BoolVar(&readiness, "readiness", false, "show each service's type, base_url, auth, policy, limits and schemas")
	env := overlayFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case fix != "" && fix != "write" && fix != "dry-run":
			return usageError("--fix=%s is unknown: use --fix or --fix=dry-run", fix)
		case fix != "" && readiness:
			return usageError("--readiness and --fix are two different questions: give one of them")
		}
		data, err := registry.ReadFile(args[0])
		if err != nil {
			return err
		}
		m := migration{c: c, w: cmd.OutOrStdout(), file: args[0], data: data}
		if readiness {
			return m.readiness(env())
		}
		if fix != "" {
			return m.fix(fix == "write")
		}
		return m.check()
	}
	return cmd
}

type migration struct {
	c    *common
	w    io.Writer
	file string
	data []byte
}

// unreadable reports a file that is not YAML.
func (m migration) unreadable(diags registry.Diagnostics) error {
	if m.c.json() {
		if err := writeJSON(m.w, map[string]any{"file": m.file, "diagnostics": diags}); err != nil {
			return err
		}
	} else if err := diags.WriteText(m.w); err != nil {
		return err
	}
	return quiet(exitUnreadable)
}

func (m migration) check() error {
	found, diags := registry.FindPatterns(m.file, m.data)
	if diags != nil {
		return m.unreadable(diags)
	}
	if m.c.json() {
		if err := writeJSON(m.w, map[string]any{"file": m.file, "findings": nonNil(found)}); err != nil {
			return err
		}
	} else if err := m.print(found); err != nil {
		return err
	}
	return foundAny(found)
}

func nonNil(found []registry.Finding) []registry.Finding {
	if found == nil {
		return []registry.Finding{}
	}
	return found
}

func foundAny(found []registry.Finding) error {
	if len(found) > 0 {
		return quiet(exitFound)
	}
	return nil
}

// print lists findings for people.
func (m migration) print(found []registry.Finding) error {
	var b strings.Builder
	fixable := 0
	for _, f := range found {
		service := ""
		if f.Service != "" {
			service = "service " + f.Service + ": "
		}
		fmt.Fprintf(&b, "%s:%d:%d: [%s] %s%s\n", f.File, f.Line, f.Column, f.Code, service, f.Message)
		fmt.Fprintf(&b, "  before  %s\n  after   %s\n  why     %s\n\n", f.Before, strings.ReplaceAll(f.After, "\n", "\n          "), f.Why)
		if f.Fixable {
			fixable++
		}
	}
	if len(found) == 0 {
		fmt.Fprintf(&b, "%s: no deprecated or risky pattern\n", m.file)
	} else {
		fmt.Fprintf(&b, "%s: %s, of which --fix can rewrite %d\n", m.file, count(int64(len(found)), "pattern"), fixable)
	}
	return printLines(m.w, b.String())
}

func (m migration) fix(write bool) error {
	fixed, diags := registry.FixPatterns(m.file, m.data)
	if diags != nil {
		return m.unreadable(diags)
	}
	diff := registry.DiffTexts(m.file, m.data, fixed.Text)
	if m.c.json() {
		err := writeJSON(m.w, map[string]any{"file": m.file, "written": write && len(fixed.Done) > 0, "diff": diff,
			"fixed": nonNil(fixed.Done), "left": nonNil(fixed.Left)})
		if err != nil {
			return err
		}
	} else if err := printLines(m.w, diff); err != nil {
		return err
	}
	if write && len(fixed.Done) > 0 {
		if err := replaceFile(m.file, m.data, fixed.Text); err != nil {
			return err
		}
	}
	if !m.c.json() {
		done := "would be rewritten"
		if write {
			done = "rewritten"
		}
		if _, err := fmt.Fprintf(m.w, "%s: %s %s, %d left for you to decide\n", clean(m.file), count(int64(len(fixed.Done)), "pattern"), done, len(fixed.Left)); err != nil {
			return err
		}
		if len(fixed.Left) > 0 {
			if err := m.print(fixed.Left); err != nil {
				return err
			}
		}
	}
	if !write {
		return foundAny(append(fixed.Done, fixed.Left...))
	}
	return foundAny(fixed.Left)
}

// replaceFile puts text in the place of a file in one step, following links,
// so that an agent that watches it never reads half of it. A file that has
// changed since it was read is left alone.
func replaceFile(path string, was, text []byte) error {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	now, err := registry.ReadFile(target)
	if err != nil {
		return err
	}
	if string(now) != string(was) {
		return &statusError{exitFound, fmt.Errorf("%s has changed meanwhile: nothing was written, run it again", path)}
	}
	info, err := os.Stat(target)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(target), ".specql-*")
	if err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return &statusError{exitUsage, fmt.Errorf("%s cannot be written: %w", path, err)}
		}
		return err
	}
	defer os.Remove(f.Name()) // it is gone where all went well
	_, err = f.Write(text)
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err != nil {
		return fmt.Errorf("%s cannot be written: %w", path, err)
	}
	return os.Rename(f.Name(), target)
}

func (m migration) readiness(env string) error {
	list, ok := registry.ReadinessOf(m.file, m.data, env)
	if !ok || len(list) == 0 {
		if _, diags := registry.FindPatterns(m.file, m.data); diags != nil {
			return m.unreadable(diags)
		}
		return &statusError{exitInvalid, fmt.Errorf("%s has no list of services to judge: run migration-check without --readiness first", m.file)}
	}
	ready := 0
	t := newTable(m.w, "SERVICE", "TYPE", "EXPLICIT TYPE", "BASE_URL", "AUTH", "POLICY", "LIMITS", "SCHEMAS", "STILL TO ADD")
	for _, r := range list {
		t.row(r.Service, string(r.Type), r.Explicit, r.BaseURL, r.Auth, r.Policy, r.Limits, r.Schemas, or(strings.Join(r.Missing, "; "), none))
		if r.Ready {
			ready++
		}
	}
	if m.c.json() {
		if err := writeJSON(m.w, map[string]any{"file": m.file, "services": list, "ready": ready}); err != nil {
			return err
		}
	} else {
		if err := t.flush(); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(m.w, "\n%d of %s ready for phase 2\n", ready, count(int64(len(list)), "service")); err != nil {
			return err
		}
	}
	if ready < len(list) {
		return quiet(exitFound)
	}
	return nil
}

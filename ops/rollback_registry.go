package ops

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// RegistryRestore says which registry a rollback returns to, and where.
type RegistryRestore struct {
	File    string `json:"file"`              // on this host
	From    string `json:"from"`              // the hash of its present text
	To      string `json:"to"`                // of the one that it gets
	Source  string `json:"source"`            // "version 1a2b…, applied 2026-11-23 10:00", "git HEAD~1"
	Changes string `json:"changes,omitempty"` // by service and field
	Already bool   `json:"already,omitempty"` // the file has that text

	text []byte
}

// RegistryRestoreError says why a registry cannot be restored from here.
type RegistryRestoreError struct{ Problem string }

func (e *RegistryRestoreError) Error() string { return "restore the registry: " + e.Problem }

func cannotRestore(format string, args ...any) error {
	return &RegistryRestoreError{fmt.Sprintf(format, args...)}
}

// planRestore finds the text to return to and the file that it goes into.
func planRestore(ctx context.Context, db jobs.Querier, name, file string) (*RegistryRestore, error) {
	newest, err := ListVersions(ctx, db, nil, 1)
	if err != nil {
		return nil, err
	}
	if len(newest) == 0 {
		return nil, cannotRestore("no agent has applied a registry yet, so there is nothing to return from")
	}
	env := newest[0].Environment
	if file == "" {
		file = newest[0].File
	}
	now, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, cannotRestore("%s is not on this host: run this where the agents' file is, or give --registry-file; "+
			"registry show VERSION prints a version's text", file)
	}
	if err != nil {
		return nil, cannotRestore("%v", err)
	}
	r := &RegistryRestore{File: file, From: hashText(file, now, env)}
	if ref, ok := strings.CutPrefix(name, "git:"); ok {
		err = r.fromGit(ctx, ref, env)
	} else {
		err = r.fromHistory(ctx, db, name, env)
	}
	if err != nil {
		return nil, err
	}
	r.Already = bytes.Equal(now, r.text)
	before, after := registry.Sketch(file, now, env), registry.Sketch(file, r.text, env)
	if after == nil {
		return nil, cannotRestore("the text of %s cannot be read as a registry", r.Source)
	}
	r.To = after.Hash
	if before != nil {
		r.Changes = registry.Diff(before, after).String()
	}
	return r, nil
}

func hashText(file string, text []byte, env string) string {
	if c := registry.Sketch(file, text, env); c != nil {
		return c.Hash
	}
	return ""
}

// fromHistory takes a version that agents applied. Its text is kept without
// secrets; the hash tells whether that is all of it.
func (r *RegistryRestore) fromHistory(ctx context.Context, db jobs.Querier, name, env string) error {
	v, err := GetVersion(ctx, db, &env, name)
	if err != nil {
		return err
	}
	if hashText(r.File, []byte(v.Document), env) != v.Hash {
		return cannotRestore("version %s holds secrets, which the history does not keep: use git:REF, or name the secrets "+
			"in the file (token_env_var) from now on", v.Short())
	}
	r.text, r.Source = []byte(v.Document), fmt.Sprintf("version %s, applied %s", v.Short(), v.AppliedAt.Local().Format("2006-01-02 15:04:05"))
	return nil
}

const gitTimeout = 10 * time.Second

// fromGit takes the file as git has it at a reference.
func (r *RegistryRestore) fromGit(ctx context.Context, ref, _ string) error {
	ctx, cancel := context.WithTimeout(ctx, gitTimeout)
	defer cancel()
	if ref == "" || strings.HasPrefix(ref, "-") {
		return cannotRestore("git:%s names no reference: write it as git:HEAD~1", ref)
	}
	real, err := filepath.EvalSymlinks(r.File)
	if err != nil {
		return cannotRestore("%v", err)
	}
	var stdout, stderr bytes.Buffer
	cmd := osexec.CommandContext(ctx, "git", "-C", filepath.Dir(real), "show", ref+":./"+filepath.Base(real))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return cannotRestore("git has no %s at %s: %s", filepath.Base(real), ref, strings.TrimSpace(stderr.String()+" "+err.Error()))
	}
	r.text, r.Source = stdout.Bytes(), "git "+ref
	return nil
}

// write keeps the present text beside the file and puts the other one in its
// place. Done again, it changes nothing.
func (r *RegistryRestore) write(ctx context.Context, conn *pgx.Conn, row *Rollback) error {
	if r.Already {
		return nil
	}
	backup := fmt.Sprintf("%s.before-rollback-%d", r.File, row.ID)
	now, err := os.ReadFile(r.File)
	if err != nil {
		return cannotRestore("%v", err)
	}
	if _, err := os.Stat(backup); errors.Is(err, fs.ErrNotExist) {
		if err := replace(backup, now, r.File); err != nil {
			return cannotRestore("keep the present text: %v", err)
		}
	}
	// Written down first: an undoing finds its way back from wherever this ends.
	if _, err := conn.Exec(ctx, `UPDATE jobs.tb_rollback SET registry_backup = $2 WHERE id = $1`, row.ID, backup); err != nil {
		return err
	}
	row.Backup = backup
	if err := replace(r.File, r.text, r.File); err != nil {
		return cannotRestore("%v", err)
	}
	return nil
}

// putBack undoes write.
func putBack(file, backup string) error {
	text, err := os.ReadFile(backup)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // put back already
	}
	if err == nil {
		err = replace(file, text, file)
	}
	if err == nil {
		err = os.Remove(backup)
	}
	if err != nil {
		return cannotRestore("put the text from before back, which is in %s: %v", backup, err)
	}
	return nil
}

// replace writes a file as a whole, with the permissions of another one.
func replace(file string, text []byte, like string) error {
	if real, err := filepath.EvalSymlinks(file); err == nil {
		file = real
	}
	mode := fs.FileMode(0o644)
	if info, err := os.Stat(like); err == nil {
		mode = info.Mode().Perm()
	}
	temp, err := os.CreateTemp(filepath.Dir(file), ".specql-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(text)
	err = errors.Join(err, temp.Chmod(mode), temp.Sync(), temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), file)
}

// registryPatience is how long agents may take to notice a changed file.
const registryPatience = 15 * time.Second

// awaitRegistry asks all agents to look at their file and waits until they run
// the version; it names those that do not.
func awaitRegistry(ctx context.Context, conn *pgx.Conn, hash string) []string {
	if hash == "" {
		return nil
	}
	conn.Exec(ctx, `UPDATE jobs.tb_agent SET reload_asked_at = now() WHERE lease_expires_at > now() AND state <> 'stopped' AND registry_hash <> $1`, hash)
	for until := time.Now().Add(registryPatience); ; pause(ctx, askEvery) {
		agents, err := ListAgents(ctx, conn)
		if err != nil {
			return []string{"not to be told: " + err.Error()}
		}
		var behind []string
		for _, a := range agents {
			if !a.Alive() || a.RegistryHash == hash {
				continue
			}
			why := "its file is another one"
			if a.RegistryError != "" {
				why = a.RegistryError
			}
			behind = append(behind, fmt.Sprintf("%s on %s: %s", a.Name, a.Host, why))
		}
		if len(behind) == 0 || time.Now().After(until) || ctx.Err() != nil {
			return behind
		}
	}
}

// Package waiter is what waits in a container that was started ahead of its
// job. It reads from its standard input what to run, and becomes that program:
// same process, same standard streams, so the program finds the job's input as
// it would in a container made for it. Nothing of the service runs before.
//
// When its input ends before a job came, because the agent is gone, it ends.
package waiter

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Name is the name that the program is started by in a container.
const Name = "specql-waiter"

// The exit statuses of a program that cannot be started, as shells have them,
// and what standard error begins with then.
const (
	NotExecutable = 126
	NotFound      = 127
	Complaint     = "specql-waiter: cannot start "
)

// Job says what the waiter becomes.
type Job struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"` // beside the container's own, which it overrides
}

// longest bounds a job's frame: the kernel takes 2 MiB of arguments and
// variables at most.
const longest = 8 << 20

// Frame is the job as the waiter reads it: four bytes of length, big endian,
// and JSON.
func (j Job) Frame() ([]byte, error) {
	b, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	if len(b) > longest {
		return nil, fmt.Errorf("arguments and variables of %d bytes are more than a program can be given", len(b))
	}
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...), nil
}

// Main returns at once unless the program was started as a waiter; then it
// never returns.
func Main() {
	if len(os.Args) == 0 || filepath.Base(os.Args[0]) != Name {
		return
	}
	job, err := read(os.Stdin)
	if err != nil {
		if errors.Is(err, io.EOF) {
			os.Exit(0) // no job came
		}
		fmt.Fprintln(os.Stderr, Complaint+"what cannot be read:", err)
		os.Exit(NotExecutable)
	}
	os.Exit(job.become())
}

// read takes the frame, and not a byte more: the rest is the program's.
func read(r io.Reader) (job Job, err error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return job, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > longest {
		return job, fmt.Errorf("a frame of %d bytes", n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return job, fmt.Errorf("a frame that is cut short: %w", err)
	}
	if err := json.Unmarshal(b, &job); err != nil {
		return job, err
	}
	if len(job.Argv) == 0 {
		return job, errors.New("a job without a program")
	}
	return job, nil
}

// become returns only when the program cannot be started.
func (j Job) become() (status int) {
	env := overlaid(os.Environ(), j.Env)
	path, err := find(j.Argv[0], env)
	if err == nil {
		err = syscall.Exec(path, j.Argv, env)
	}
	fmt.Fprintf(os.Stderr, "%s%s: %v\n", Complaint, j.Argv[0], err)
	if errors.Is(err, os.ErrNotExist) {
		return NotFound
	}
	return NotExecutable
}

// overlaid is base with more laid over it, variable by variable.
func overlaid(base, more []string) []string {
	given := map[string]bool{}
	for _, v := range more {
		name, _, _ := strings.Cut(v, "=")
		given[name] = true
	}
	var all []string
	for _, v := range base {
		if name, _, _ := strings.Cut(v, "="); !given[name] {
			all = append(all, v)
		}
	}
	return append(all, more...)
}

// find looks for a program as a container's start does: by its path, or along
// PATH.
func find(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	var path string
	for _, v := range env {
		if value, ok := strings.CutPrefix(v, "PATH="); ok {
			path = value
		}
	}
	for _, dir := range filepath.SplitList(path) {
		candidate := filepath.Join(dir, name)
		if info, err := os.Stat(candidate); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("it is not in PATH (%s): %w", path, os.ErrNotExist)
}

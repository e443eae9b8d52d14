//go:build unix

package devdb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	superuser = "postgres"

	// Below the ports that Linux and macOS give to outgoing connections, so
	// that none of those takes the server's port while it restarts.
	lowestPort, highestPort = 20000, 32000
	portAttempts            = 20

	startSeconds = 60
	fastDeadline = 20 * time.Second // then an immediate shutdown
	lastDeadline = 10 * time.Second // then a kill
)

// errPortTaken says that another process has the TCP port.
var errPortTaken = errors.New("the TCP port is taken")

// fastSettings trade what tests do not need, surviving a power cut, for
// speed (PostgreSQL's manual, "Non-Durable Settings").
var fastSettings = map[string]string{"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}

// cluster is the PostgreSQL in one folder.
type cluster struct {
	folder string
	bin    Binaries
	as     account
	log    io.Writer // nil: only the log file
	copies sync.WaitGroup
}

func dataFolder(folder string) string         { return filepath.Join(folder, "pg", "data") }
func (c *cluster) data() string               { return dataFolder(c.folder) }
func (c *cluster) sockets() string            { return filepath.Join(c.folder, "pg") }
func (c *cluster) logFile() string            { return filepath.Join(c.folder, "log") }
func (c *cluster) program(name string) string { return filepath.Join(c.bin.Dir, name) }

// init makes the cluster: local connections are trusted, since only the
// folder's owner gets at the sockets; TCP needs the password.
func (c *cluster) init(ctx context.Context, password string, settings map[string]string, networks []netip.Prefix) error {
	secret := filepath.Join(c.sockets(), "password")
	f, err := os.OpenFile(secret, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(secret)
	_, err = f.WriteString(password + "\n")
	if c.as.drop {
		err = errors.Join(err, f.Chown(c.as.uid, c.as.gid))
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("hand over the password: %w", err)
	}

	cmd := exec.CommandContext(ctx, c.program("initdb"),
		"-D", c.data(), "-U", superuser, "--pwfile", secret,
		"--auth-local=trust", "--auth-host=scram-sha-256",
		"-E", "UTF8", "--locale=C", "--no-sync")
	if err := c.run(ctx, cmd); err != nil {
		return fmt.Errorf("create the database cluster with %s: %w", cmd.Path, err)
	}
	return errors.Join(c.configure(settings, networks), c.admit(networks))
}

var settingName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.]*$`)

// ownSettings are decided here: URLs, Stop and the guard rely on them.
var ownSettings = []string{"port", "listen_addresses", "unix_socket_directories", "data_directory", "hba_file", "external_pid_file"}

func checkSettings(settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		switch value := settings[name]; {
		case !settingName.MatchString(name):
			return fmt.Errorf("%q is not the name of a PostgreSQL setting", name)
		case slices.Contains(ownSettings, strings.ToLower(name)):
			return fmt.Errorf("the setting %s of a private PostgreSQL cannot be chosen", name)
		case strings.ContainsAny(value, "\n\r\x00"):
			return fmt.Errorf("the value of the setting %s has more than one line", name)
		}
	}
	return nil
}

// configure appends to postgresql.conf, where the last line of a name counts.
func (c *cluster) configure(settings map[string]string, networks []netip.Prefix) error {
	quote := strings.NewReplacer(`'`, `''`, `\`, `\\`)
	var text strings.Builder
	line := func(name, value string) { fmt.Fprintf(&text, "%s = '%s'\n", name, quote.Replace(value)) }
	addresses := "127.0.0.1"
	for _, n := range networks {
		addresses += "," + n.Addr().String()
	}
	line("listen_addresses", addresses)
	line("unix_socket_directories", c.sockets())
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		line(name, settings[name])
	}
	return c.appendTo("postgresql.conf", text.String())
}

// admit lets the networks in, by the password.
func (c *cluster) admit(networks []netip.Prefix) error {
	var text strings.Builder
	for _, n := range networks {
		fmt.Fprintf(&text, "host all all %s scram-sha-256\n", n.Masked())
	}
	return c.appendTo("pg_hba.conf", text.String())
}

func (c *cluster) appendTo(name, text string) error {
	f, err := os.OpenFile(filepath.Join(c.data(), name), os.O_WRONLY|os.O_APPEND|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	_, err = f.WriteString("\n" + text)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("configure the server: %w", err)
	}
	return nil
}

// startAnywhere starts the server on a free port and returns that.
func (c *cluster) startAnywhere(ctx context.Context) (port int, err error) {
	for range portAttempts {
		port := lowestPort + rand.IntN(highestPort-lowestPort)
		probe, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err != nil {
			continue
		}
		probe.Close()
		// Somebody may take the port before the server does.
		if err := c.start(ctx, port); !errors.Is(err, errPortTaken) {
			return port, err
		}
	}
	return 0, fmt.Errorf("no free TCP port on 127.0.0.1 between %d and %d in %d attempts", lowestPort, highestPort, portAttempts)
}

// start starts the server and returns when it accepts connections. The server
// is not a child of this process: it may outlive it, and the guard sees to it.
func (c *cluster) start(ctx context.Context, port int) error {
	cmd := exec.CommandContext(ctx, c.program("pg_ctl"), "start", "-w", "-s",
		"-t", strconv.Itoa(startSeconds), "-D", c.data(), "-o", "-p "+strconv.Itoa(port))
	if err := c.run(ctx, cmd); err != nil {
		return fmt.Errorf("start the server with %s: %w", cmd.Path, err)
	}
	return nil
}

// run runs one of PostgreSQL's programs to its end. What it and the server
// that it leaves behind write goes to the log; its share of that is the error's
// text when it fails.
func (c *cluster) run(ctx context.Context, cmd *exec.Cmd) error {
	c.as.command(cmd, c.sockets())
	log, err := os.OpenFile(c.logFile(), os.O_RDWR|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	from, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		log.Close()
		return err
	}
	out := log
	if c.log != nil {
		r, w, err := os.Pipe()
		if err != nil {
			log.Close()
			return err
		}
		out = w
		c.copies.Go(func() { // ends with the last server process
			defer r.Close()
			defer log.Close()
			_, _ = io.Copy(io.MultiWriter(log, neverFails{c.log}), r)
		})
	}
	cmd.Stdout, cmd.Stderr = out, out
	err = cmd.Run()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause // rather than "signal: killed"
	}
	out.Close()
	if err == nil {
		return nil
	}
	// pg_ctl gives up waiting, or is stopped by ctx, while the server goes on.
	err = errors.Join(err, shutdown(c.folder, unix.SIGQUIT))
	c.copies.Wait()
	said := c.said(from)
	if bytes.Contains(said, []byte("could not create any TCP/IP sockets")) {
		return fmt.Errorf("%w: %s", errPortTaken, said)
	}
	if errors.Is(err, os.ErrPermission) && c.as.drop {
		return fmt.Errorf("run as user %s: %w (PostgreSQL does not run as root: where root may not change user, run as another user)", c.as.name, err)
	}
	if len(said) > 0 {
		return fmt.Errorf("%w: it said:\n%s", err, said)
	}
	return err
}

// said is the end of what was logged since from.
func (c *cluster) said(from int64) []byte {
	const most = 4 << 10
	log, err := os.ReadFile(c.logFile())
	if err != nil || int64(len(log)) <= from {
		return nil
	}
	log = bytes.TrimSpace(log[from:])
	return log[max(0, len(log)-most):]
}

// neverFails keeps a caller's broken writer from stopping the log, and with
// it the server when the pipe is full.
type neverFails struct{ w io.Writer }

func (n neverFails) Write(p []byte) (int, error) {
	_, _ = n.w.Write(p)
	return len(p), nil
}

// postmaster is the pid of the server that runs on a folder's data, 0 when
// none does. A pid file may be stale and its number another process's by now,
// so the process must name the data folder.
func postmaster(folder string) int {
	text, err := os.ReadFile(filepath.Join(dataFolder(folder), "postmaster.pid"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid <= 1 || !runsOn(pid, dataFolder(folder)) {
		return 0
	}
	return pid
}

func runsOn(pid int, data string) bool { return slices.Contains(arguments(pid), data) }

// shutdown stops the server of a folder, if one runs there: with SIGINT a
// fast shutdown, with SIGQUIT an immediate one (PostgreSQL's manual, "Shutting
// Down the Server"), and harder when that takes too long.
func shutdown(folder string, how unix.Signal) error {
	pid := postmaster(folder)
	if pid == 0 {
		return nil
	}
	steps := []struct {
		signal   unix.Signal
		deadline time.Duration
	}{{unix.SIGINT, fastDeadline}, {unix.SIGQUIT, lastDeadline}, {unix.SIGKILL, lastDeadline}}
	if how == unix.SIGQUIT {
		steps = steps[1:]
	}
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for _, step := range steps {
		if err := unix.Kill(pid, step.signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("stop PostgreSQL, process %d: %w", pid, err)
		}
		for end := time.Now().Add(step.deadline); time.Now().Before(end); <-tick.C {
			if !runsOn(pid, dataFolder(folder)) {
				return nil
			}
		}
	}
	return fmt.Errorf("PostgreSQL, process %d on %s, does not end, not even when killed", pid, folder)
}

//go:build unix

package devdb

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

func TestServerAnswersBySocketAndByTCPWithItsPasswordOnly(t *testing.T) {
	ownTemp(t)
	s := start(t, Options{})
	if err := s.CreateDatabase(t.Context(), `a "b" c`); err != nil {
		t.Fatal(err)
	}
	for _, u := range []string{s.URL(`a "b" c`), s.TCPURL(`a "b" c`)} {
		if db := query[string](t, u, "SELECT current_database()"); db != `a "b" c` {
			t.Errorf("connected to %q", db)
		}
	}
	wrong, err := url.Parse(s.TCPURL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	wrong.User = url.UserPassword(superuser, "wrong")
	var refusal *pgconn.PgError
	if _, err := pgx.Connect(t.Context(), wrong.String()); !errors.As(err, &refusal) || refusal.Code != "28P01" {
		t.Errorf("with a wrong password: %v, want invalid_password", err)
	}
	if ip := query[string](t, s.URL("postgres"), "SHOW listen_addresses"); ip != "127.0.0.1" {
		t.Errorf("listens on %s", ip)
	}
}

func TestServerTakesConnectionsFromTheNetworksThatAreNamed(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux has all of 127.0.0.0/8 as its own")
	}
	ownTemp(t)
	s := start(t, Options{Networks: []netip.Prefix{netip.MustParsePrefix("127.9.8.7/8")}})
	other := strings.Replace(s.TCPURL("postgres"), "127.0.0.1", "127.9.8.7", 1)
	if ip := query[string](t, other, "SELECT host(inet_server_addr())"); ip != "127.9.8.7" {
		t.Errorf("connected to %s", ip)
	}
	if ips := query[string](t, s.URL("postgres"), "SHOW listen_addresses"); ips != "127.0.0.1,127.9.8.7" {
		t.Errorf("listens on %s", ips)
	}
}

func TestServerLivesInTheFolderThatIsNamedAndLeavesItEmpty(t *testing.T) {
	ownTemp(t)
	named, err := filepath.EvalSymlinks(os.TempDir())
	if err == nil {
		named = filepath.Join(named, "named")
		err = os.Mkdir(named, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, Options{Folder: named})
	if data := query[string](t, s.URL("postgres"), "SHOW data_directory"); !strings.HasPrefix(data, named+"/") {
		t.Errorf("the data is in %s", data)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(named, "*", "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := Start(t.Context(), Options{Folder: filepath.Join(named, "nowhere")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a folder that is not there: %v", err)
	}
}

func TestPsqlTakesBothAddresses(t *testing.T) {
	psql, err := exec.LookPath("psql")
	if err != nil {
		t.Skip("psql is not installed")
	}
	ownTemp(t)
	s := start(t, Options{})
	for _, u := range []string{s.URL("postgres"), s.TCPURL("postgres")} {
		out, err := exec.Command(psql, "-X", "-A", "-t", "-d", u, "-c", "SELECT 6 * 7").CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != "42" {
			t.Errorf("psql says %q, %v", out, err)
		}
	}
}

func TestRootRunsTheServerUnprivilegedInAPrivateFolder(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ownTemp(t)
	s := start(t, Options{})
	for _, path := range []string{s.cluster.sockets(), s.cluster.data()} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid == 0 || info.Mode().Perm() != 0o700 {
			t.Errorf("%s belongs to %d with mode %v, want another user and 0700", path, uid, info.Mode().Perm())
		}
	}
	for _, secret := range []string{stateFile(s.cluster.folder), s.cluster.logFile()} {
		if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, %v; want 0600", secret, info.Mode().Perm(), err)
		}
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(s.PID()) + "/status")
	if err != nil {
		t.Skip("needs /proc to see whose process it is")
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); f[0] == "Uid:" || f[0] == "Gid:" {
			for _, id := range f[1:] {
				if id == "0" {
					t.Errorf("the server has root's rights: %s", line)
				}
			}
		}
		if f := strings.Fields(line); f[0] == "Groups:" && len(f) > 1 {
			t.Errorf("the server kept groups: %s", line)
		}
	}
}

func TestServerAvoidsATemporaryFolderThatItCannotUse(t *testing.T) {
	for _, c := range []struct {
		name     string
		root     bool
		unusable func(t *testing.T, dir string) string
	}{
		{"private", true, func(t *testing.T, dir string) string { return dir }},
		{"too long for a socket", false, func(t *testing.T, dir string) string {
			return subfolder(t, dir, strings.Repeat("x", 80))
		}},
		{"another user's", true, func(t *testing.T, dir string) string {
			base := subfolder(t, dir, "specql-devdb-0")
			if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(base, 65534, -1)); err != nil {
				t.Fatal(err)
			}
			return dir
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.root && os.Geteuid() != 0 {
				t.Skip("needs root")
			}
			dir, err := os.MkdirTemp("/tmp", "devdb-test-") // mode 0700
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			dir = c.unusable(t, dir)
			t.Setenv("TMPDIR", dir)
			s := start(t, Options{})
			if strings.HasPrefix(s.cluster.folder, dir+"/") {
				t.Errorf("the server is in %s", s.cluster.folder)
			}
			query[int](t, s.URL("postgres"), "SELECT 1")
		})
	}
}

func TestStopLeavesNoProcessAndNoFolder(t *testing.T) {
	temp := ownTemp(t)
	s := start(t, Options{})
	conn, err := pgx.Connect(t.Context(), s.URL("postgres")) // must not hold the stop up
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	pid := s.PID()
	if pid == 0 || len(folders(t, temp)) != 1 {
		t.Fatalf("pid %d, folders %v", pid, folders(t, temp))
	}
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if len(arguments(pid)) > 0 || len(folders(t, temp)) > 0 {
			t.Errorf("left: process %v, folders %v", arguments(pid), folders(t, temp))
		}
	}
	if s.PID() != 0 || !errors.Is(s.Restart(t.Context(), false), ErrStopped) {
		t.Error("a stopped server claims to run")
	}
}

func TestOnlyDurableServersWaitForTheDisk(t *testing.T) {
	ownTemp(t)
	for _, c := range []struct {
		durable bool
		want    string
	}{{true, "on"}, {false, "off"}} {
		s := start(t, Options{Durable: c.durable, Settings: map[string]string{"application_name": `it's a \ test`}})
		for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
			if got := query[string](t, s.URL("postgres"), "SHOW "+name); got != c.want {
				t.Errorf("durable %v: %s is %s, want %s", c.durable, name, got, c.want)
			}
		}
		if got := query[string](t, s.URL("postgres"), "SHOW application_name"); got != `it's a \ test` {
			t.Errorf("the chosen setting came out as %q", got)
		}
	}
}

func TestSettingsThatCannotBeChosenAreRefused(t *testing.T) {
	for name, value := range map[string]string{"port": "1", "Listen_Addresses": "*", "work mem": "1", "work_mem": "1\nport=1"} {
		if s, err := Start(t.Context(), Options{Settings: map[string]string{name: value}}); err == nil {
			s.Stop()
			t.Errorf("%s = %q was taken", name, value)
		}
	}
}

func TestRestartKeepsDataAndAddress(t *testing.T) {
	ownTemp(t)
	s := start(t, Options{Durable: true})
	u := s.TCPURL("postgres")
	conn, err := pgx.Connect(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 7 AS n"); err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, immediate := range []bool{false, true} {
		before := s.PID()
		if err := s.Restart(t.Context(), immediate); err != nil {
			t.Fatal(err)
		}
		if after := s.PID(); after == 0 || after == before {
			t.Errorf("pid %d after %d", after, before)
		}
		if n := query[int](t, u, "SELECT n FROM kept"); n != 7 {
			t.Errorf("kept %d", n)
		}
	}
	if conn.Ping(t.Context()) == nil {
		t.Error("a connection outlived the restart")
	}
}

func TestTakenPortIsRecognizedAndAnotherOneFound(t *testing.T) {
	ownTemp(t)
	s := start(t, Options{})
	if err := shutdown(s.cluster.folder, unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	squatter, err := net.Listen("tcp4", "127.0.0.1:"+strconv.Itoa(s.state.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	if err := s.cluster.start(t.Context(), s.state.Port); !errors.Is(err, errPortTaken) {
		t.Fatalf("on a taken port: %v", err)
	}
	port, err := s.cluster.startAnywhere(t.Context())
	if err != nil || port == s.state.Port {
		t.Errorf("port %d, %v", port, err)
	}
}

// buffer is a bytes.Buffer for two goroutines.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Write(p)
	return 0, errors.New("a broken writer must not stop the server's log")
}

func TestLogIsWholeWhenStopReturns(t *testing.T) {
	ownTemp(t)
	var log buffer
	s := start(t, Options{Log: &log})
	if err := s.Restart(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if text := log.b.String(); strings.Count(text, "ready to accept connections") != 2 || strings.Count(text, "database system is shut down") != 2 {
		t.Errorf("log:\n%s", text)
	}
}

func TestFailedStartSaysWhatPostgresSaidAndLeavesNothing(t *testing.T) {
	temp := ownTemp(t)
	for _, log := range []*buffer{nil, {}} {
		opts := Options{Settings: map[string]string{"shared_buffers": "plenty"}}
		if log != nil {
			opts.Log = log
		}
		_, err := Start(t.Context(), opts)
		if err == nil || !strings.Contains(err.Error(), `invalid value for parameter "shared_buffers"`) {
			t.Errorf("error %v does not tell the cause", err)
		}
		if left := folders(t, temp); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
}

func TestStartEndsWithItsContextAndLeavesNothing(t *testing.T) {
	temp := ownTemp(t)
	ctx, cancel := context.WithCancel(t.Context())
	// Cancel in the middle: when the first line of the log shows initdb at work.
	_, err := Start(ctx, Options{Log: cancelOnWrite{cancel}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want the context's", err)
	}
	if left := folders(t, temp); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

type cancelOnWrite struct{ cancel func() }

func (c cancelOnWrite) Write(p []byte) (int, error) { c.cancel(); return len(p), nil }

func TestAccountsReachIsCheckedOnTheWholeWay(t *testing.T) {
	outer := t.TempDir()
	inner := subfolder(t, outer, "a", "b")
	for dir := inner; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o001 == 0 {
			if os.Chmod(dir, 0o755) != nil {
				t.Skip("the test's own folder is out of reach")
			}
		}
	}
	other := account{name: "other", uid: 54321, gid: 54321, drop: true}
	if err := other.reach(inner); err != nil {
		t.Errorf("open to all, but: %v", err)
	}
	if err := os.Chmod(filepath.Dir(inner), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := other.reach(inner); err == nil || !strings.Contains(err.Error(), filepath.Dir(inner)) {
		t.Errorf("error %v does not name the closed folder", err)
	}
}

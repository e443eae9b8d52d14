//go:build unix

package ops

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/jobs"
)

// pooler starts pgbouncer before the database and returns the URL through it.
func pooler(t *testing.T, url, mode string) string {
	t.Helper()
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin")
	program, err := osexec.LookPath("pgbouncer")
	if err != nil {
		t.Skip("there is no pgbouncer, so nothing is said of poolers: scripts/setup test installs it where it can")
	}
	there, err := pgx.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	server, err := pgx.ParseConfig(devdbtest.Server(t).TCPURL(there.Database))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	dir, err := os.MkdirTemp("", "pooler")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "pgbouncer.ini")
	// Anybody may come in, as the one whom the server knows.
	text := fmt.Sprintf("[databases]\n* = host=%s port=%d user=%s password=%s\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\n"+
		"unix_socket_dir =\nauth_type = any\npool_mode = %s\ndefault_pool_size = 4\nmax_client_conn = 50\n",
		server.Host, server.Port, server.User, server.Password, port, mode)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := osexec.Command(program, config)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if os.Geteuid() == 0 { // it refuses to be root
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	through := fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", server.User, port, server.Database)
	for began := time.Now(); ; pause(t.Context(), 20*time.Millisecond) { // until it listens
		conn, err := pgx.Connect(t.Context(), through)
		if err == nil {
			conn.Close(t.Context())
			return through
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("pgbouncer does not answer: %v; it says:\n%s", err, said.String())
		}
	}
}

func TestOperatorsWorkThroughAPoolerInTransactionMode(t *testing.T) {
	direct := devdbtest.New(t, migrated(t))
	db := connect(t, pooler(t, direct, "transaction"))
	exec(t, connect(t, direct), "INSERT INTO jobs.tb_job_run (identifier, service_name, operation) VALUES ('a', 'b', 'c')")
	for range 30 { // over several sessions of the server
		done := make(chan error, 3)
		for range 3 {
			go func() {
				_, err := ListAgents(t.Context(), db)
				if err == nil {
					_, err = MigrationStatus(t.Context(), db)
				}
				if err == nil {
					_, err = jobs.SetSwitches(t.Context(), db, []jobs.ExecutionType{jobs.Shell}, false, jobs.By{Actor: "a", Origin: "b"})
				}
				done <- err
			}()
		}
		for range 3 {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
	}
	report, err := ValidateSchema(t.Context(), db)
	if err != nil || !report.OK() {
		t.Errorf("%+v, %v", report.Faults(), err)
	}
}

func TestWhatNeedsASessionSaysSoThroughAPooler(t *testing.T) {
	direct := devdbtest.New(t, migrated(t))
	db := connect(t, pooler(t, direct, "transaction"))
	_, err := RunMigration(t.Context(), db, jobs.By{}, MigrationOptions{}, nil)
	var refused *jobs.PoolerError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "connect to PostgreSQL itself") {
		t.Errorf("migrate-schema: %v", err)
	}
	p, err := CheckPermissions(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range p.Abilities {
		if a.Name == "LISTEN" && (a.OK || a.Hint == "") {
			t.Errorf("check-permissions says that it can listen: %+v", a)
		}
	}
	// A screen that cannot hear looks all the time.
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	news := Watch(ctx, db)
	for range 2 {
		select {
		case <-news:
		case <-ctx.Done():
			t.Fatal("no news through a pooler")
		}
	}
}

func TestAPoolerInSessionModeIsAsGoodAsTheServer(t *testing.T) {
	direct := devdbtest.New(t, migrated(t))
	db := connect(t, pooler(t, direct, "session"))
	if _, err := RunMigration(t.Context(), db, jobs.By{}, MigrationOptions{}, nil); err != nil {
		t.Error(err)
	}
}

//go:build unix

package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	neturl "net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/specql/specql-ops/internal/devdb/devdbtest"
	"github.com/specql/specql-ops/internal/screen"
	"github.com/specql/specql-ops/migrations"
	"github.com/specql/specql-ops/migrations/migrationstest"
)

// storyTime bounds one story, on a busy machine too.
const storyTime = 6 * time.Minute

// TestStories has an operator sit before the real console in a terminal, on a
// real database with a real agent. Each file of testdata/story is one story, in
// the commands of testscript and these:
//
//	agent NAME [role]     starts an agent on registry.yaml, as owner or by the
//	                      agents' database role
//	agent-stops NAME      ends it; agent-dies NAME ends its heartbeat only
//	console [AS] [SIZE] [light] [ARG…]
//	                      opens a console, as owner, operator or viewer
//	demo [SIZE] [FLAG…]   opens the demo's console
//	shell                 opens a shell in the terminal instead
//	sit N                 goes to the Nth console, from 1
//	press KEY…            presses keys by name or as they are, all at once
//	type TEXT             types a text
//	expect TEXT…          waits until all texts are on the screen
//	line REGEXP           waits until a line of the screen matches
//	gone TEXT…            waits until none of the texts is on the screen
//	until KEY TEXT        presses the key until the text is on the screen
//	away KEY TEXT         presses the key until it is not
//	onto TEXT             moves the cursor down to the row that has the text
//	fill LABEL TEXT       writes into the dialog's field, in place of what is there
//	confirm VERB [REASON] gives the dialog its reason, chooses the answer and
//	                      waits for what came of it; close closes the dialog
//	copied TEXT           waits until the console put the text on the clipboard
//	resize COLSxROWS, signal NAME, leaves [STATUS]
//	screenshot FILE       keeps a picture for the documentation, where make picture
//	                      asks for it; warm DURATION lets time go by before it
//	feed SERVICE OPERATION N [INPUT]
//	jobs N WORD…          waits until so many jobs match, such as status:failed
//	do SQL, becomes SQL   carries out a statement; waits until an expression is true
//	answers STATUS        what the shop's HTTP service says from now on; hold
//	                      keeps its callers waiting
//	lock [MODE], unlock   a session that holds the jobs table, as a careless ALTER
//	                      TABLE would, or in another mode
//	click TEXT            clicks where the text is
//	cut, stall, heal      the network between the consoles and the database
func TestStories(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:   "testdata/story",
		Setup: newStory,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"agent": told((*story).startAgent), "agent-stops": told((*story).stopAgent), "agent-dies": told((*story).killAgent),
			"console": told((*story).console), "shell": told((*story).shell), "demo": told((*story).demo), "sit": told((*story).sit),
			"press": told((*story).press), "type": told((*story).typeText), "expect": told((*story).expect), "line": told((*story).line),
			"gone": told((*story).gone), "until": told((*story).until), "choose": told((*story).choose), "away": told((*story).away), "focus": told((*story).focus), "onto": told((*story).onto),
			"fill": told((*story).fill), "confirm": told((*story).confirm), "close": told((*story).closeDialog), "copied": told((*story).copied), "resize": told((*story).resize),
			"screenshot": told((*story).screenshot), "warm": told((*story).warm), "signal": told((*story).signal), "leaves": told((*story).leaves),
			"feed": told((*story).feed), "jobs": told((*story).jobs), "do": told((*story).do), "becomes": told((*story).becomes), "answers": told((*story).answers),
			"lock": told((*story).lock), "unlock": told((*story).unlock), "click": told((*story).click),
			"cut": told((*story).cut), "stall": told((*story).stall), "heal": told((*story).heal), "exits": exits,
		},
	})
}

// story is what one of them happens in.
type story struct {
	ctx      context.Context
	dir      string
	scripts  string // a folder that any user may enter: programs run as another one
	url      string // of the database, past the link
	db       *pgxpool.Pool
	link     *link
	shop     *shop
	agents   map[string]*storyAgent
	consoles []*screen.Terminal
	at       *screen.Terminal // the one that the operator sits before
	locker   *pgx.Conn        // holds the jobs table
	logins   int
	release  func(func()) // has a function called at the story's end
}

type storyKey struct{}

// told makes a story's method a command of its script.
func told(act func(*story, []string) error) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		if neg {
			ts.Fatalf("the command cannot be negated")
		}
		s := ts.Value(storyKey{}).(*story)
		err := act(s, args)
		if err != nil {
			s.explain(ts)
		}
		ts.Check(err)
	}
}

func newStory(env *testscript.Env) error {
	t := env.T().(testing.TB)
	ctx, cancel := context.WithTimeout(context.Background(), storyTime)
	env.Defer(cancel)
	s := &story{ctx: ctx, dir: env.WorkDir, agents: map[string]*storyAgent{}, release: env.Defer}
	tpl := migrationstest.Migrated
	if _, err := os.Stat(filepath.Join(env.WorkDir, "http-only")); err == nil {
		tpl = application
	}
	s.url = devdbtest.Named(t, tpl, "shop")
	var err error
	if s.db, err = pgxpool.New(ctx, s.url); err != nil {
		return err
	}
	env.Defer(s.db.Close)
	if s.link, err = newLink(s.url); err != nil {
		return err
	}
	env.Defer(s.link.close)
	s.shop = newShop()
	env.Defer(s.shop.close)
	env.Defer(func() {
		for _, c := range s.consoles {
			c.Close()
		}
	})
	if err := s.unpack(); err != nil {
		return err
	}
	env.Setenv("SHOP", s.shop.server.URL)
	env.Setenv("SCRIPTS", s.scripts)
	env.Setenv("SPECQL_DATABASE_URL", s.link.url(s.url))
	env.Setenv("HOME", env.WorkDir)
	env.Values[storyKey{}] = s
	return nil
}

// unpack copies the registry and its scripts to where the story may change them.
func (s *story) unpack() (err error) {
	const from = "testdata/story"
	if s.scripts, err = os.MkdirTemp("", "story-scripts-"); err != nil {
		return err
	}
	s.release(func() { os.RemoveAll(s.scripts) })
	if err := os.Chmod(s.scripts, 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(s.scripts, os.DirFS(from+"/scripts")); err != nil {
		return err
	}
	file := filepath.Join(s.dir, "registry.yaml")
	if _, err := os.Stat(file); err == nil {
		return nil // the story's own
	}
	text, err := os.ReadFile(from + "/registry.yaml")
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o600)
}

func takes(args []string, low, high int, text string) error {
	if len(args) < low || high >= 0 && len(args) > high {
		return errors.New("usage: " + text)
	}
	return nil
}

var sizeForm = regexp.MustCompile(`^(\d+)x(\d+)$`)

func parseSize(word string) (cols, rows int, ok bool) {
	m := sizeForm.FindStringSubmatch(word)
	if m == nil {
		return 0, 0, false
	}
	cols, _ = strconv.Atoi(m[1])
	rows, _ = strconv.Atoi(m[2])
	return cols, rows, true
}

func (s *story) console(args []string) error {
	url, cols, rows, theme := s.link.url(s.url), 120, 40, screen.Dark
	for len(args) > 0 {
		word := args[0]
		if c, r, ok := parseSize(word); ok {
			cols, rows = c, r
		} else if word == "light" {
			theme = screen.Light
		} else if word == "operator" || word == "viewer" {
			login, err := s.login(word)
			if err != nil {
				return err
			}
			url = s.link.url(login)
		} else {
			break
		}
		args = args[1:]
	}
	if err := s.open(cols, rows, theme, exec.Command("specql-tui", append([]string{"--database-url", url}, args...)...)); err != nil {
		return err
	}
	return s.at.Until(s.ctx, "the console's first page", func(text string) bool { return holdsAny(text, []string{"[1 Migrate]", "[2 Live]"}) })
}

func (s *story) shell([]string) error {
	return s.open(120, 40, screen.Dark, exec.Command("bash", "--norc", "--noprofile", "-i"))
}

func (s *story) demo(args []string) error {
	cols, rows := 120, 40
	if len(args) > 0 {
		if c, r, ok := parseSize(args[0]); ok {
			cols, rows, args = c, r, args[1:]
		}
	}
	return s.open(cols, rows, screen.Dark, exec.Command("specql-tui", append([]string{"demo"}, args...)...))
}

func (s *story) open(cols, rows int, theme screen.Theme, command *exec.Cmd) error {
	command.Dir = s.dir
	command.Env = append(os.Environ(), "HOME="+s.dir, "XDG_CONFIG_HOME="+s.dir, "SPECQL_DATABASE_URL="+s.link.url(s.url), "SHOP="+s.shop.server.URL, "SCRIPTS="+s.scripts, "PS1=$ ")
	c, err := screen.Start(cols, rows, theme, command)
	if err != nil {
		return err
	}
	s.consoles, s.at = append(s.consoles, c), c
	return nil
}

// login makes a login with one of the product's roles, for the time of the story.
func (s *story) login(role string) (url string, err error) {
	conn, err := pgx.Connect(s.ctx, s.url)
	if err != nil {
		return "", err
	}
	defer conn.Close(s.ctx)
	if err := migrations.CreateRoles(s.ctx, conn); err != nil {
		return "", err
	}
	s.logins++
	name := fmt.Sprintf("story_%s_%s_%d", role, strings.ToLower(rand.Text()[:8]), s.logins)
	if _, err := conn.Exec(s.ctx, "CREATE ROLE "+name+" LOGIN IN ROLE specql_"+role); err != nil {
		return "", err
	}
	s.release(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if conn, err := pgx.Connect(ctx, s.url); err == nil {
			conn.Exec(ctx, "DROP ROLE "+name)
			conn.Close(ctx)
		}
	})
	u, err := neturl.Parse(s.url)
	if err != nil {
		return "", err
	}
	u.User = neturl.User(name)
	q := u.Query()
	q.Del("user")
	u.RawQuery = q.Encode()
	return u.String(), nil
}

func (s *story) feed(args []string) error {
	if err := takes(args, 3, 4, "feed SERVICE OPERATION N [INPUT]"); err != nil {
		return err
	}
	n, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	input := "{}"
	if len(args) == 4 {
		input = args[3]
	}
	_, err = s.db.Exec(s.ctx, `INSERT INTO jobs.tb_job_run (identifier, service_name, operation, input_data)
		SELECT $1 || '-' || $2 || '-' || n || '-' || substr(gen_random_uuid()::text, 1, 8), $1, $2, $4::jsonb FROM generate_series(1, $3) n`,
		args[0], args[1], n, input)
	return err
}

func (s *story) jobs(args []string) error {
	if err := takes(args, 1, -1, "jobs N [status:STATUS] [service:NAME] [type:TYPE]"); err != nil {
		return err
	}
	columns := map[string]string{"status": "status", "service": "service_name", "type": "execution_type"}
	query := "count(*) = " + args[0] + " FROM jobs.tb_job_run WHERE true"
	for _, word := range args[1:] {
		name, value, _ := strings.Cut(word, ":")
		if columns[name] == "" {
			return fmt.Errorf("jobs knows no %q", word)
		}
		query += fmt.Sprintf(" AND %s = '%s'", columns[name], value)
	}
	return s.becomes([]string{query})
}

func (s *story) do(args []string) error {
	_, err := s.db.Exec(s.ctx, strings.Join(args, " "))
	return err
}

func (s *story) becomes(args []string) error {
	query := "SELECT " + strings.Join(args, " ")
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var is bool
		if err := s.db.QueryRow(s.ctx, query).Scan(&is); err != nil {
			return fmt.Errorf("%s never came true: %w", query, err)
		}
		if is {
			return nil
		}
		<-tick.C
	}
}

func (s *story) answers(args []string) error {
	return s.shop.answers(strings.Join(args, ""))
}

func (s *story) cut([]string) error { s.link.cut(); return nil }

func (s *story) stall([]string) error { s.link.stall(); return nil }

func (s *story) heal([]string) error { s.link.heal(); return nil }

func (s *story) lock(args []string) (err error) {
	mode := "ACCESS EXCLUSIVE"
	if len(args) > 0 {
		mode = strings.Join(args, " ")
	}
	if s.locker, err = pgx.Connect(s.ctx, s.url); err != nil {
		return err
	}
	s.release(func() { s.locker.Close(context.Background()) })
	_, err = s.locker.Exec(s.ctx, "BEGIN; LOCK TABLE jobs.tb_job_run IN "+mode+" MODE")
	return err
}

func (s *story) unlock([]string) error {
	_, err := s.locker.Exec(s.ctx, "ROLLBACK")
	return err
}

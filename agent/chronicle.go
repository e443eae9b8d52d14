package agent

import (
	"context"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
)

// maxChanges bounds the summary of changes in the audit log, in bytes.
const maxChanges = 4000

// news is what became of a registry file and is yet to be written down.
type news struct {
	config *registry.Config // applied; nil: the file was rejected
	before *registry.Config // that the agent had; nil: it has just started
	fault  string
}

// chronicle holds news until they are written to the registry's history and
// the audit log. That goes by a connection of its own, away from heartbeats
// and claims: masking a big file takes a while, and so does giving a million
// waiting jobs the types of a new registry.
type chronicle struct {
	mu    sync.Mutex
	news  []news
	fault string        // the last one told, so that each is told once
	come  chan struct{} // news have come; capacity 1

	// The rest is keepChronicle's own.
	newest  *registry.Config // the last one written down
	aligned *registry.Config // whose types waiting jobs have
}

func newChronicle(first *registry.Config) *chronicle {
	c := &chronicle{come: make(chan struct{}, 1)}
	c.applied(first, nil)
	return c
}

func (c *chronicle) applied(config, before *registry.Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = ""
	c.news = append(c.news, news{config: config, before: before})
	c.tell()
}

func (c *chronicle) rejected(fault string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fault != fault {
		c.fault = fault
		c.news = append(c.news, news{fault: fault})
		c.tell()
	}
}

func (c *chronicle) tell() {
	select {
	case c.come <- struct{}{}:
	default:
	}
}

// next returns the oldest news; done is to be called once they are written.
func (c *chronicle) next() (n news, done func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.news) == 0 {
		return news{}, nil, false
	}
	return c.news[0], func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.news = append([]news(nil), c.news[1:]...)
	}, true
}

// keepChronicle writes news down as they come, until ctx ends.
func (a *Agent) keepChronicle(ctx context.Context) {
	const shortest, longest = time.Second, time.Minute
	wait := shortest
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.chronicle.come:
		case <-again:
		}
		in, err := a.writeNews(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			a.log.Warn("what became of the registry is not written down yet", "error", err, "again_in", wait)
			in, wait = wait, min(2*wait, longest)
		default:
			wait = shortest
		}
		if again = nil; in > 0 {
			again = time.After(in)
		}
	}
}

// writeNews writes all news and then gives waiting jobs the types of the
// newest registry. Where another agent does that, it asks to be called again.
func (a *Agent) writeNews(ctx context.Context) (again time.Duration, err error) {
	conn, err := a.connect(ctx, forUpkeep)
	if err != nil {
		return 0, err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		n, done, ok := a.chronicle.next()
		switch {
		case !ok:
			return a.alignTypes(ctx, conn)
		case n.config == nil:
			err = jobs.RejectVersion(ctx, conn, a.config().File, printable(n.fault), a.by())
		default:
			a.chronicle.newest = n.config
			err = a.writeVersion(ctx, conn, n)
		}
		if err != nil {
			return 0, err
		}
		done()
	}
}

// writeVersion keeps an applied registry in the history.
func (a *Agent) writeVersion(ctx context.Context, conn *pgx.Conn, n news) error {
	c := n.config
	if hash, _, err := jobs.NewestVersion(ctx, conn, c.Env); err != nil || hash == c.Hash {
		return err // most agents are not the first
	}
	v := jobs.RegistryVersion{Hash: c.Hash, Environment: c.Env, File: c.File, Document: c.Redacted(), Services: len(c.Services),
		Agent: a.opt.Name, Host: hostName()}
	_, err := jobs.KeepVersion(ctx, conn, v, a.by(), func(hash, document string) string {
		return changes(n, hash, document, v.Document)
	})
	return err
}

// changes says in words what an applied registry changes. The agent's own last
// one tells more than the text in the history, whose secrets are masked.
func changes(n news, hash, kept, document string) string {
	var text string
	switch {
	case hash == "":
		text = "first version"
	case n.before != nil && n.before.Hash == hash:
		text = registry.Diff(n.before, n.config).String()
	default:
		before := registry.Sketch("", []byte(kept), n.config.Env)
		after := registry.Sketch("", []byte(document), n.config.Env)
		if before == nil || after == nil {
			return "not to be told from the texts"
		}
		text = registry.Diff(before, after).String()
	}
	if len(text) > maxChanges {
		cut := maxChanges
		for !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + " …"
	}
	return printable(text)
}

// by is this agent in the audit log.
func (a *Agent) by() jobs.By {
	return jobs.By{Actor: "agent " + a.opt.Name, Origin: "specql-agent on " + hostName()}
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return name
}

func (a *Agent) config() *registry.Config {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.opt.Config
}

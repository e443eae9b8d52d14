package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"time"

	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

// throughHTTP drains a backlog of http jobs through the complete agent and its
// http runner, against a service of this process. A job's two halves, the
// queue's and the request's, are measured alone, by the bare loop and by a
// bare client; one after the other on the same machine they would give
// 1/(1/a + 1/b) jobs a second.
func throughHTTP(ctx context.Context, l *lab) error {
	l.table.heading("HTTP: jobs that post to a local service, against what the bare loop and a bare client allow together")
	service := startService()
	defer service.close()
	n := l.sizes.httpJobs
	queue, err := l.backlogTemplate(ctx, n)
	if err != nil {
		return err
	}
	for _, slots := range []int{100, 500} {
		found, err := l.interleave(ctx, fmt.Sprintf("http, %d slots", slots), l.sizes.rounds, []side{
			{"agent", func(ctx context.Context) (figures, error) { return l.httpDrain(ctx, queue, service, n, slots) }},
			{"bare loop", func(ctx context.Context) (figures, error) { return l.bareDrain(ctx, queue, n, slots) }},
			{"bare client", func(ctx context.Context) (figures, error) { return service.bareClient(ctx, n, slots) }},
		})
		if err != nil {
			return err
		}
		loop, client := of("bare loop", rate), of("bare client", rate)
		allowed := func(round map[string]figures) float64 { return 1 / (1/loop(round) + 1/client(round)) }
		l.table.compare(fmt.Sprintf("%d slots (bare loop %s, bare client %s)", slots, perSecond(found.median(loop)), perSecond(found.median(client))),
			found, of("agent", rate), allowed, perSecond, atLeast(0.70))
	}
	return nil
}

// service is what jobs call: it reads a small object and answers with another.
type service struct {
	server *httptest.Server
	calls  atomic.Pointer[tally] // of the present measurement
}

func startService() *service {
	s := &service{}
	s.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		s.calls.Load().add()
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"ok": true, "id": "ch_0123456789"}`)
	}))
	return s
}

func (s *service) close() { s.server.Close() }

// httpEntry is the service in a registry.
func httpEntry(url string) string {
	return fmt.Sprintf(`{ name: noop, type: bench, category: bench, runner_config: { base_url: %q },
		security_policy: { allowed_networks: ["127.0.0.0/8"] },
		operations: [{ name: run, input_schema: {}, output_schema: {} }] }`, url)
}

// httpDrain has an agent drain a copy of the template. Each job must have been one
// request.
func (l *lab) httpDrain(ctx context.Context, queue template, s *service, n, slots int) (figures, error) {
	return l.drain(ctx, queue, n, func(url string) (time.Duration, error) {
		runner := httpapi.New(httpapi.Options{})
		defer runner.Close()
		calls := newTally(n)
		s.calls.Store(calls)
		took, err := agentRuns(ctx, url, slots, calls, []string{httpEntry(s.server.URL)}, runner)
		if made := calls.count.Load(); err == nil && made != int64(n) {
			err = fmt.Errorf("%d jobs made %d requests", n, made)
		}
		return took, err
	})
}

// agentRuns measures an agent from its start to the end of its leaving, when
// all that the tally counted is recorded. Start and leave are short beside a
// drain.
func agentRuns(ctx context.Context, url string, slots int, until *tally, services []string, with ...runners.Runner) (time.Duration, error) {
	start := time.Now()
	a, err := startAgent(ctx, url, slots, services, with...)
	if err != nil {
		return 0, err
	}
	if err := a.await(ctx, until.all); err != nil {
		a.stop()
		return 0, err
	}
	err = a.stop()
	return time.Since(start), err
}

// bareDrain has the bare loop do it.
func (l *lab) bareDrain(ctx context.Context, queue template, n, slots int) (figures, error) {
	return l.drain(ctx, queue, n, func(url string) (time.Duration, error) {
		start := time.Now()
		b, err := connectBare(ctx, url, slots)
		if err != nil {
			return 0, err
		}
		defer b.close()
		err = b.drain(ctx, func(string) {})
		return time.Since(start), err
	})
}

// jobsLeft counts the no-op jobs that are not completed.
const jobsLeft = `SELECT count(*) FROM jobs.tb_job_run WHERE service_name = 'noop' AND status <> 'completed'`

// drain has the n jobs of a copy of the template run, makes sure that none was
// left, and returns the rate and what a job costs.
func (l *lab) drain(ctx context.Context, queue template, n int, run func(url string) (time.Duration, error)) (figures, error) {
	return l.onCopy(ctx, queue, func(db *database) (figures, error) {
		var took time.Duration
		found, err := l.spentOnJobs(n, func() (err error) {
			took, err = run(db.url)
			return err
		})
		if err != nil {
			return nil, err
		}
		found[rate] = float64(n) / took.Seconds()
		return found, db.allCompleted(ctx, jobsLeft)
	})
}

// bareClient makes n requests, as many at once as there are slots, on
// connections that it keeps.
func (s *service) bareClient(ctx context.Context, n, slots int) (figures, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: slots}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	s.calls.Store(newTally(n))
	var next atomic.Int64
	errs := make(chan error, slots)
	var group sync.WaitGroup
	start := time.Now()
	for range slots {
		group.Go(func() {
			for next.Add(1) <= int64(n) {
				if err := post(ctx, client, s.server.URL); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	took := time.Since(start)
	select {
	case err := <-errs:
		return nil, err
	default:
		return figures{rate: float64(n) / took.Seconds()}, nil
	}
}

// post is one request of a bare client.
func post(ctx context.Context, client *http.Client, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/run", bytes.NewReader([]byte(`{"n": 1}`)))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if _, err := io.ReadAll(answer.Body); err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("the service answered %s", answer.Status)
	}
	return nil
}

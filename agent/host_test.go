package agent

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/registry"
	"github.com/specql/specql-ops/runners"
)

// limited is a runner on a host that cannot run one of the services.
type limited struct {
	fake
	cannot string
	swept  *int
}

func (l limited) Cannot(s *registry.Service) string {
	if s.Name == l.cannot {
		return "isolation: full needs Landlock"
	}
	return ""
}

func (l limited) Sweep() (int, error) { *l.swept++; return 3, nil }

func TestServiceThatAHostCannotRunWaitsForOneThatCan(t *testing.T) {
	w := newWorld(t)
	config := parse(t, "strict:shell", "lax:shell")
	w.enqueue(5, "strict")
	w.enqueue(5, "lax")
	swept := 0
	weak, _ := w.start(Options{Name: "weak", Config: config, Runners: []runners.Runner{limited{fake{jobs.Shell, ok}, "strict", &swept}},
		Abilities: Abilities{jobs.Shell: {{Name: "landlock", Found: "none", Advice: "a newer kernel"}}}})
	w.until("what it can run is done", func() bool { return w.count("service_name = 'lax' AND status = 'completed'") == 5 })
	w.until("the reason is visible", func() bool { return w.held("strict") == "held: isolation: full needs Landlock" })
	if n := w.count("service_name = 'strict' AND status = 'pending' AND attempts = 0"); n != 5 {
		t.Fatalf("%d of 5 jobs wait untouched", n)
	}
	if swept != 1 {
		t.Errorf("swept %d times", swept)
	}
	var found string
	w.scan(&found, "SELECT abilities->'shell'->0->>'found' FROM jobs.tb_agent WHERE id = $1", weak.ledger.incarnation())
	if found != "none" {
		t.Errorf("published %q", found)
	}

	w.start(Options{Name: "strong", Config: config, Runners: []runners.Runner{limited{fake{jobs.Shell, ok}, "", &swept}}})
	w.until("the other host runs it", func() bool { return w.count("service_name = 'strict' AND status = 'completed'") == 5 })
	if held := w.held("strict"); held != "" {
		t.Errorf("still %q", held)
	}
}

func TestHostThatCannotRunANewRegistrysServiceSaysSo(t *testing.T) {
	w := newWorld(t)
	swept := 0
	a, _ := w.start(Options{Config: parse(t, "lax:shell"), Runners: []runners.Runner{limited{fake{jobs.Shell, ok}, "strict", &swept}}})
	a.Apply(parse(t, "lax:shell", "strict:shell"))
	w.enqueue(1, "strict")
	w.until("the reason is visible", func() bool { return w.held("strict") == "held: isolation: full needs Landlock" })
}

// selective serves the services of one provider.
type selective struct {
	fake
	provider string
}

func (s selective) Serves(service *registry.Service) bool {
	return service.RunnerConfig.Provider == s.provider
}

func TestRunnersOfOneTypeEachRunTheServicesThatTheyServe(t *testing.T) {
	w := newWorld(t)
	config := parse(t, "one:http", "two:http", "three:http")
	for i, s := range config.Services {
		s.RunnerConfig.Provider = []string{"aws", "other", "nobody"}[i]
	}
	named := func(name string) selective {
		return selective{fake{jobs.HTTP, func(_ context.Context, c runners.Call) (runners.Result, error) {
			return runners.Result{Output: []byte(`{"by": "` + name + `"}`)}, nil
		}}, name}
	}
	w.start(Options{Config: config, Runners: []runners.Runner{named("aws"), named("other")}})
	for _, s := range config.Services {
		w.enqueue(3, s.Name)
	}
	w.until("both run", func() bool { return w.count("status = 'completed'") == 6 })
	if n := w.count("service_name = 'one' AND output_data->>'by' = 'aws' OR service_name = 'two' AND output_data->>'by' = 'other'"); n != 6 {
		t.Errorf("%d of 6 jobs ran where their service says", n)
	}
	w.until("the third waits and says why", func() bool { return w.held("three") == "held: none of the http runners here serves it" })

	all := fake{jobs.HTTP, ok}
	for name, both := range map[string][]runners.Runner{"two of all services": {all, all}, "one of all after another": {named("aws"), all}, "one of all before another": {all, named("aws")}} {
		if _, err := New(Options{Config: config, Runners: both}); err == nil {
			t.Errorf("%s: which one runs a service is anybody's guess, and nobody says so", name)
		}
	}
}

// talker writes what it is told to, and ends when it is told to.
func talker(say <-chan string, fail error) fake {
	return fake{jobs.Shell, func(ctx context.Context, call runners.Call) (runners.Result, error) {
		out := call.Log.Stream("stdout")
		for text := range say {
			if text == "!" {
				call.Log.Note("noted")
				continue
			}
			out.Write([]byte(text + "\n"))
		}
		out.Close()
		return runners.Result{Output: []byte(`{}`)}, fail
	}}
}

func (w *world) logged() (lines []string) {
	w.t.Helper()
	w.scan(&lines, `SELECT coalesce(array_agg(line->>'stream' || ' ' || (line->>'text')), '{}')
		FROM jobs.tb_job_log, jsonb_array_elements(lines) AS line`)
	return lines
}

func TestLogOfAnAttemptIsKeptWhereItSaysMoreThanTheOutput(t *testing.T) {
	for _, c := range []struct {
		say  []string
		fail error
		want []string
	}{
		{[]string{"a", "b"}, nil, nil},
		{[]string{"a", "!"}, nil, []string{"stdout a", "agent noted"}},
		{[]string{"a\x00"}, &runners.FinalError{Err: context.Canceled}, []string{"stdout a\uFFFD"}},
		{nil, &runners.FinalError{Err: context.Canceled}, nil},
	} {
		w := newWorld(t)
		say := make(chan string, len(c.say))
		for _, text := range c.say {
			say <- text
		}
		close(say)
		w.start(Options{Config: parse(t, "s:shell"), Runners: []runners.Runner{talker(say, c.fail)}})
		w.enqueue(1, "s")
		w.until("the job has ended", func() bool { return w.count("status IN ('completed', 'failed')") == 1 })
		if got := w.logged(); !slices.Equal(got, c.want) {
			t.Errorf("%v, %v: kept %v, want %v", c.say, c.fail, got, c.want)
		}
	}
}

func TestLogIsWrittenWhileSomebodyFollowsIt(t *testing.T) {
	w := newWorld(t)
	say := make(chan string)
	a, _ := w.start(Options{Config: parse(t, "s:shell"), Runners: []runners.Runner{talker(say, nil)}})
	w.enqueue(1, "s")
	say <- "first"
	var id jobs.ID
	w.scan(&id, "SELECT id FROM jobs.tb_job_run")
	if got := w.logged(); len(got) > 0 {
		t.Fatalf("written unasked: %v", got)
	}
	w.until("the agent answers", func() bool {
		if err := jobs.AskForLog(w.ctx, w.pool, id); err != nil {
			t.Fatal(err)
		}
		return slices.Equal(w.logged(), []string{"stdout first"})
	})
	say <- "second"
	w.until("the next line follows", func() bool { return slices.Equal(w.logged(), []string{"stdout first", "stdout second"}) })
	say <- "third"
	close(say)
	w.until("the job has ended", func() bool { return w.count("status = 'completed'") == 1 })
	if got := w.logged(); !slices.Equal(got, []string{"stdout first", "stdout second", "stdout third"}) {
		t.Errorf("what a follower has begun to read lacks its end: %v", got)
	}
	if _, _, more := a.logs.due(time.Now()); more {
		t.Error("an ended job is still followed")
	}
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/specql/specql-ops/jobs"
	"github.com/specql/specql-ops/runners"
	"github.com/specql/specql-ops/runners/httpapi"
)

const (
	// callTimeout is the deadline that both sides' requests have, as every
	// job's has.
	callTimeout = 30 * time.Second
	// serveArgument makes this program the service that httpcall's requests
	// go to: in a process of its own, its work is not counted.
	serveArgument = "serve"

	cpuEach = "CPU a request"
)

// httpCalls measures what the http runner takes of this process's CPU for a
// request, against a client that does no more than it must.
func httpCalls(ctx context.Context, l *lab) error {
	l.table.heading("One http request: the runner's CPU time against a bare client's, service in another process")
	url, stop, err := startElsewhere()
	if err != nil {
		return err
	}
	defer stop()
	runner := httpapi.New(httpapi.Options{})
	defer runner.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	call, err := callOf(url)
	if err != nil {
		return err
	}
	for _, at := range []int{1, 100} {
		n := l.sizes.httpJobs
		if at == 1 {
			n /= 3
		}
		found, err := l.interleave(ctx, fmt.Sprintf("http requests, %d at once", at), l.sizes.rounds, []side{
			{"runner", func(ctx context.Context) (figures, error) {
				return cpuOf(ctx, n, at, func(ctx context.Context) error {
					call := call
					call.Log = runners.NewLog()
					_, err := runner.Run(ctx, call)
					return err
				})
			}},
			{"bare client", func(ctx context.Context) (figures, error) {
				return cpuOf(ctx, n, at, func(ctx context.Context) error { return post(ctx, client, url) })
			}},
		})
		if err != nil {
			return err
		}
		l.table.compare(fmt.Sprintf("%s, %d at once", cpuEach, at), found, of("runner", cpuEach), of("bare client", cpuEach), microseconds, atMost(1.20))
	}
	return nil
}

// callOf is a call as an agent makes it of a job.
func callOf(url string) (runners.Call, error) {
	config, err := parseRegistry(httpEntry(url))
	if err != nil {
		return runners.Call{}, err
	}
	found, _ := config.Service("noop")
	job := &jobs.Job{ID: jobs.NewID(), Identifier: "job-1", Service: found.Name, Operation: "run", Attempt: 1, MaxAttempts: 3,
		Input: json.RawMessage(`{"n": 1}`)}
	return runners.Call{Job: job, Service: found, Operation: &found.Operations[0], Timeout: callTimeout}, nil
}

// cpuOf makes n requests, some at once, on connections that were made before.
func cpuOf(ctx context.Context, n, atOnce int, request func(context.Context) error) (figures, error) {
	round := func(n int) error {
		var next atomic.Int64
		errs := make(chan error, atOnce)
		var group sync.WaitGroup
		for range atOnce {
			group.Go(func() {
				for next.Add(1) <= int64(n) {
					within, cancel := context.WithTimeout(ctx, callTimeout)
					err := request(within)
					cancel()
					if err != nil {
						errs <- err
						return
					}
				}
			})
		}
		group.Wait()
		select {
		case err := <-errs:
			return err
		default:
			return nil
		}
	}
	if err := round(20 * atOnce); err != nil {
		return nil, err
	}
	before, err := ownCPU()
	if err != nil {
		return nil, err
	}
	if err := round(n); err != nil {
		return nil, err
	}
	after, err := ownCPU()
	return figures{cpuEach: (after - before).Seconds() / float64(n)}, err
}

// ownCPU is the processor time that this process has used.
func ownCPU() (time.Duration, error) {
	var used syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &used)
	return time.Duration(used.Utime.Nano() + used.Stime.Nano()), err
}

// startElsewhere starts the service in a process of its own, which ends with
// its standard input.
func startElsewhere() (url string, stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	command := exec.Command(self, serveArgument)
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := command.Start(); err != nil {
		return "", nil, err
	}
	stop = func() {
		stdin.Close()
		command.Wait()
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		stop()
		return "", nil, fmt.Errorf("the service of http requests did not start: %w", err)
	}
	return strings.TrimSpace(line), stop, nil
}

// serve is the other process: it says where it listens and ends with its
// standard input.
func serve() {
	s := startService()
	defer s.close()
	s.calls.Store(newTally(0))
	fmt.Println(s.server.URL)
	io.Copy(io.Discard, os.Stdin)
}

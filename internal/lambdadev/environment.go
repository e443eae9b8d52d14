package lambdadev

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// environment is an execution environment: one process of the function, which
// does one invocation at a time.
type environment struct {
	version *version
	conf    configuration // when it was started
	process *os.Process
	api     *http.Server
	logs    *logs
	begun   time.Time

	next     chan *invocation // to the runtime, when it asks
	ready    chan struct{}    // closed when it first asks
	initTook time.Duration    // valid once ready or gone is closed
	gone     chan struct{}    // closed when the process has ended
	state    *os.ProcessState // valid once gone is closed

	overMemory atomic.Bool
	slow       bool // its init was given up; of await's caller
	idle       *time.Timer

	mu        sync.Mutex
	current   *invocation
	first     bool   // it has asked before
	initFault []byte // what it said of its failed init
	peak      int    // MB
}

// take hands out the environment that was used last, or starts one.
func (v *version) take(s *Server) (e *environment, started bool, err error) {
	v.mu.Lock()
	for len(v.warm) > 0 && e == nil {
		e = v.warm[len(v.warm)-1]
		v.warm = v.warm[:len(v.warm)-1]
		if !e.idle.Stop() || e.exited() {
			e = nil
		}
	}
	v.mu.Unlock()
	if e != nil {
		return e, false, nil
	}
	e, err = v.start(s)
	return e, true, err
}

// putBack keeps an environment warm for the next invocation.
func (v *version) putBack(e *environment, keep time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if e.conf.RevisionId != v.conf.RevisionId { // it was configured anew meanwhile
		e.kill()
		return
	}
	e.idle = time.AfterFunc(keep, e.kill)
	v.warm = append(v.warm, e)
}

func (v *version) all() []*environment {
	v.mu.Lock()
	defer v.mu.Unlock()
	var all []*environment
	for e := range v.alive {
		all = append(all, e)
	}
	return all
}

// start makes an environment and its process.
func (v *version) start(s *Server) (*environment, error) {
	conf := v.configured()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &environment{version: v, conf: conf, begun: time.Now(), next: make(chan *invocation), ready: make(chan struct{}), gone: make(chan struct{})}
	if e.logs, err = newLogs(); err != nil {
		listener.Close()
		return nil, err
	}
	e.api = &http.Server{Handler: e.runtimeAPI()}
	go e.api.Serve(listener)
	cmd := exec.Command(filepath.Join(v.dir, "bootstrap"))
	cmd.Dir = v.dir
	cmd.Env = e.variables(s, listener.Addr().String())
	cmd.Stdout, cmd.Stderr = e.logs.in, e.logs.in
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	e.logs.add(fmt.Sprintf("INIT_START Runtime Version: provided:al2023.local\tRuntime Version ARN: %s\n", s.arn(conf.FunctionName, conf.Version)))
	s.mu.Lock() // always before a version's
	v.mu.Lock()
	if s.closed {
		err = errors.New("the endpoint is closing")
	} else if err = cmd.Start(); err == nil {
		v.alive[e] = true
		e.process = cmd.Process
	}
	v.mu.Unlock()
	s.mu.Unlock()
	if err != nil {
		e.api.Close()
		e.logs.close()
		return nil, err
	}
	go e.wait(cmd)
	go e.watchMemory()
	return e, nil
}

// wait takes note of the process's end, whoever ended it.
func (e *environment) wait(cmd *exec.Cmd) {
	cmd.Wait()
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it started
	e.state = cmd.ProcessState
	e.mu.Lock()
	if !e.first {
		e.initTook = time.Since(e.begun)
	}
	e.mu.Unlock()
	close(e.gone)
	e.api.Close()
	e.version.mu.Lock()
	delete(e.version.alive, e)
	e.version.mu.Unlock()
	e.logs.close()
}

// kill ends the environment, the process with all that it started.
func (e *environment) kill() {
	if !e.exited() { // its number may be another's since
		syscall.Kill(-e.process.Pid, syscall.SIGKILL)
	}
}

func (e *environment) exited() bool {
	select {
	case <-e.gone:
		return true
	default:
		return false
	}
}

// how says how the process ended: "with error: exit status 1".
func (e *environment) how() string {
	<-e.gone
	if e.state.Success() {
		return "without providing a reason"
	}
	return "with error: " + e.state.String()
}

// variables are those of "Defined runtime environment variables".
func (e *environment) variables(s *Server, api string) []string {
	c := e.conf
	vars := []string{
		"AWS_LAMBDA_RUNTIME_API=" + api, "_HANDLER=" + c.Handler, "AWS_REGION=" + s.opt.Region, "AWS_DEFAULT_REGION=" + s.opt.Region,
		"AWS_LAMBDA_FUNCTION_NAME=" + c.FunctionName, "AWS_LAMBDA_FUNCTION_VERSION=" + c.Version,
		"AWS_LAMBDA_FUNCTION_MEMORY_SIZE=" + strconv.Itoa(c.MemorySize), "AWS_LAMBDA_INITIALIZATION_TYPE=on-demand",
		"AWS_LAMBDA_LOG_GROUP_NAME=/aws/lambda/" + c.FunctionName, "AWS_LAMBDA_LOG_STREAM_NAME=" + newID(),
		"LAMBDA_TASK_ROOT=" + e.version.dir, "LAMBDA_RUNTIME_DIR=" + e.version.dir, "TZ=:UTC", "LANG=en_US.UTF-8",
		"PATH=/usr/local/bin:/usr/bin:/bin",
	}
	if c.Environment != nil {
		for name, value := range c.Environment.Variables {
			vars = append(vars, name+"="+value)
		}
	}
	return vars
}

// await waits until the environment has come to its first question.
func (e *environment) await(most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-e.ready:
		return true
	case <-e.gone:
	case <-timer.C:
		e.slow = true
		e.kill()
		<-e.gone
	}
	return false
}

func (e *environment) initError() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.initFault
}

// ending is how an invocation left its environment.
type ending int

const (
	endedWell    ending = iota // it waits for the next one
	endedExit                  // the process is gone
	endedMemory                // it was killed for its memory
	endedTimeout               // it was killed for its time
)

// carryOut hands an invocation to the runtime and waits until it asks for the
// next one. Unless it ended well the process is gone when it returns.
func (e *environment) carryOut(in *invocation, timeout time.Duration) ending {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	finished := in.finished
	select {
	case e.next <- in:
	case <-e.gone:
		finished = nil
	case <-timer.C:
		e.kill()
		<-e.gone
		return endedTimeout
	}
	select {
	case <-finished:
		e.logs.settle()
		if e.memoryUsed(); !e.overMemory.Load() {
			return endedWell
		}
		e.kill()
		<-e.gone
		return endedMemory
	case <-e.gone:
		e.logs.settle()
		if e.overMemory.Load() {
			return endedMemory
		}
		return endedExit
	case <-timer.C:
		e.kill()
		<-e.gone
		e.logs.settle()
		return endedTimeout
	}
}

// watchEvery is how often a function's memory is looked at.
const watchEvery = 10 * time.Millisecond

// watchMemory kills the process once it has more memory than it may.
func (e *environment) watchMemory() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-e.gone:
			return
		case <-tick.C:
		}
		if e.memoryUsed(); e.overMemory.Load() {
			e.kill()
			return
		}
	}
}

// memoryUsed is the most memory that the process has had, in MB; never more
// than it may have.
func (e *environment) memoryUsed() int {
	now := peakMemory(e.process.Pid)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.peak = max(e.peak, now)
	if e.peak > e.conf.MemorySize {
		e.overMemory.Store(true)
		return e.conf.MemorySize
	}
	return e.peak
}

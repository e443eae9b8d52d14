package docker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// agentEnv makes the test binary an agent that runs the jobs whose commands
// the variable holds, and then waits to be killed.
const agentEnv = "SPECQL_TEST_DOCKER_AGENT"

func playAgent() {
	var orders struct {
		Host     string
		Commands [][]string
		AheadMB  int
		Waiter   string
	}
	if err := json.Unmarshal([]byte(os.Getenv(agentEnv)), &orders); err != nil {
		panic(err)
	}
	r, err := New(Options{Agent: "doomed", Host: orders.Host, AheadMB: orders.AheadMB, Waiter: orders.Waiter, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		panic(err)
	}
	for _, command := range orders.Commands {
		call := newCall(command...)
		call.Timeout = time.Hour
		go func() { _, _ = r.Run(context.Background(), call) }()
		for next := int64(0); ; {
			lines, to, more := call.Log.Since(next)
			if len(lines) > 0 {
				break
			}
			next = to
			<-more
		}
	}
	if orders.AheadMB > 0 {
		call := newCall("argv")
		for waitingFor(r, call) == 0 {
			if _, err := r.Run(context.Background(), again(call)); err != nil {
				panic(err)
			}
		}
	}
	fmt.Println(process())
	select {}
}

// doomed starts an agent process with jobs that run, and returns its labels'
// owner once they do.
func doomed(t *testing.T, host string, commands ...[]string) (cmd *exec.Cmd, owner string) {
	t.Helper()
	return startDoomed(t, map[string]any{"Host": host, "Commands": commands})
}

// doomedAhead starts one that has a container waiting.
func doomedAhead(t *testing.T, waiter string) (cmd *exec.Cmd, owner string) {
	t.Helper()
	return startDoomed(t, map[string]any{"AheadMB": 128, "Waiter": waiter})
}

func startDoomed(t *testing.T, order map[string]any) (cmd *exec.Cmd, owner string) {
	t.Helper()
	orders, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), agentEnv+"="+string(orders))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	owner, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the agent did not come to run its jobs: %v", err)
	}
	return cmd, strings.TrimSpace(owner)
}

func containersOf(t *testing.T, engine *client.Client, owner string) []container.Summary {
	t.Helper()
	list, err := engine.ContainerList(context.Background(), client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", labelOwner+"="+owner)})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func TestWhatAKilledAgentLeftIsRemovedAndALivingOnesIsNot(t *testing.T) {
	engine := needEngine(t)
	r := runnerOn(t, engine, Options{SweepEvery: time.Hour})
	victim, dying := doomed(t, "", []string{"hang"}, []string{"hang"})
	_, living := doomed(t, "", []string{"hang"})
	t.Cleanup(func() { removeAll(t, engine, living) })
	mine := newCall("hang")
	ctx, cancel := contextWithCancel(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = r.Run(ctx, mine)
	}()
	awaitLine(t, mine.Log, "hanging")

	if removed, err := r.Sweep(); err != nil || removed != 0 {
		t.Errorf("removed %d containers while all owners live: %v", removed, err)
	}
	if n := len(containersOf(t, engine, dying)); n != 2 {
		t.Fatalf("%d containers of the agent that shall die, want 2", n)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	removed, err := r.Sweep()
	if err != nil || removed != 2 {
		t.Errorf("removed %d containers of the killed agent, want 2: %v", removed, err)
	}
	if left := containersOf(t, engine, dying); len(left) > 0 {
		t.Errorf("%d containers of the killed agent are left", len(left))
	}
	if n := len(containersOf(t, engine, living)); n != 1 {
		t.Errorf("%d containers of the living agent, want 1", n)
	}
	if n := len(ownContainers(t, engine)); n != 1 {
		t.Errorf("%d containers of this agent, want 1", n)
	}
	if c := r.groups; c != nil {
		for _, mount := range c.all {
			if _, err := os.Stat(mount + "/" + groupPrefix + strings.ReplaceAll(dying, "/", "_")); err == nil {
				t.Errorf("the killed agent's cgroup is left below %s", mount)
			}
		}
	}
	cancel()
	<-done
}

func removeAll(t *testing.T, engine *client.Client, owner string) {
	for _, c := range containersOf(t, engine, owner) {
		_, _ = engine.ContainerRemove(context.Background(), c.ID, client.ContainerRemoveOptions{Force: true})
	}
}

// The agent looks by itself, too, and not only when it starts.
func TestContainersOfDeadAgentsAreLookedForPeriodically(t *testing.T) {
	engine := needEngine(t)
	victim, dying := doomed(t, "", []string{"hang"})
	runnerOn(t, engine, Options{SweepEvery: 100 * time.Millisecond})
	_ = victim.Process.Kill()
	_ = victim.Wait()
	deadline := time.Now().Add(30 * time.Second)
	for len(containersOf(t, engine, dying)) > 0 {
		if time.Now().After(deadline) {
			t.Fatal("the killed agent's container is still there")
		}
	}
}

func TestFateOfOwners(t *testing.T) {
	self := process()
	parts := strings.Split(self, "/")
	boot, space, pid, start := parts[0], parts[1], parts[2], parts[3]
	join := func(p ...string) string { return strings.Join(p, "/") }
	parent := fmt.Sprint(os.Getppid())
	parentStart, _ := startTime(os.Getppid())
	for _, c := range []struct {
		owner string
		local bool
		want  fate
	}{
		{self, true, ours},
		{join(boot, space, parent, parentStart), true, alive},
		{join(boot, space, pid, "1"), true, dead},             // the number was given to us since
		{join(boot, space, "999999999", start), true, dead},   // nobody has it
		{join(boot, "1", pid, start), true, unknown},          // another namespace, such as a container
		{join("earlier-boot", space, pid, start), true, dead}, // the engine is here, so the owner was
		{join("another", space, pid, start), false, unknown},  // perhaps another host
		{"nonsense", true, unknown}, {"", false, unknown},
	} {
		if got := fateOf(c.owner, self, c.local); got != c.want {
			t.Errorf("%s (engine local: %v): %d, want %d", c.owner, c.local, got, c.want)
		}
	}
	now := time.Now()
	for label, want := range map[string]bool{
		fmt.Sprint(now.Unix()): false, fmt.Sprint(now.Add(-2 * margin).Unix()): true, "": false, "soon": false,
	} {
		if got := expired(label, now); got != want {
			t.Errorf("expired(%q) is %v", label, got)
		}
	}
}

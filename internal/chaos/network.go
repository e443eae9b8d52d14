//go:build linux

package chaos

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// machine is a host of its own as far as the network goes: a network
// namespace with two cables to this host, one for the database and one for
// the ledger. It goes with the process that holds it, and that with this one.
type machine struct {
	t        testing.TB
	pid      int // of the process whose namespace it is
	database cable
	service  cable
}

// cable is a veth pair.
type cable struct {
	here, there         string // its ends' interfaces
	hereAddr, thereAddr netip.Prefix
}

// newMachine makes a machine for the time of the test.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a network namespace with cables needs root")
	}
	// It reads what never comes, and ends when its pipe does.
	holder := exec.Command("cat")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if _, err := holder.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatalf("make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		holder.Process.Kill()
		holder.Wait()
	})
	m := &machine{t: t, pid: holder.Process.Pid}
	m.inside("ip", "link", "set", "lo", "up")
	m.database = m.plugIn("db")
	m.service = m.plugIn("web")
	return m
}

// plugIn lays a cable to an interface of that name in the machine.
func (m *machine) plugIn(there string) cable {
	m.t.Helper()
	var random [3]byte
	rand.Read(random[:])
	c := cable{here: "sq" + hex.EncodeToString(random[:]) + there, there: there}
	c.hereAddr, c.thereAddr = unusedNetwork(m.t)
	m.t.Cleanup(func() { exec.Command("ip", "link", "del", c.here).Run() }) // it may be gone with the machine
	m.outside("ip", "link", "add", c.here, "type", "veth", "peer", "name", there, "netns", strconv.Itoa(m.pid))
	m.outside("ip", "addr", "add", c.hereAddr.String(), "dev", c.here)
	m.outside("ip", "link", "set", c.here, "up")
	m.inside("ip", "addr", "add", c.thereAddr.String(), "dev", there)
	m.inside("ip", "link", "set", there, "up")
	return c
}

// unusedNetwork is a network of two addresses out of 198.18.0.0/15, which is
// for tests of networks (RFC 2544) and routed nowhere.
func unusedNetwork(t testing.TB) (a, b netip.Prefix) {
	t.Helper()
	used, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
next:
	for {
		n, err := rand.Int(rand.Reader, big.NewInt(1<<15))
		if err != nil {
			t.Fatal(err)
		}
		i := n.Int64()
		first := netip.AddrFrom4([4]byte{198, byte(18 + i>>14), byte(i >> 6), byte(i<<2) + 1})
		network := netip.PrefixFrom(first, 30)
		for _, u := range used {
			if p, err := netip.ParsePrefix(u.String()); err == nil && p.Overlaps(network) {
				continue next
			}
		}
		return network, netip.PrefixFrom(first.Next(), 30)
	}
}

func (m *machine) outside(args ...string) {
	m.t.Helper()
	if said, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, said)
	}
}

func (m *machine) inside(args ...string) {
	m.t.Helper()
	m.outside(append(m.enter(), args...)...)
}

// enter is what goes before a command to run it in the machine.
func (m *machine) enter() []string {
	return []string{"nsenter", "--net=/proc/" + strconv.Itoa(m.pid) + "/ns/net", "--"}
}

// A cut is a way to break the cable to the database, and to mend it.
type cut struct {
	name      string
	cut, mend func(*machine)
}

// Nobody's hardware address: what is sent there is lost without a word.
const nobody = "02:00:00:00:00:01"

var (
	unplugged = cut{"unplugged", // and both ends see it
		func(m *machine) { m.outside("ip", "link", "set", m.database.here, "down") },
		func(m *machine) { m.outside("ip", "link", "set", m.database.here, "up") }}
	silent = cut{"silent", // everything is lost on the way, and nobody is told
		func(m *machine) { m.loseToDatabase(); m.loseFromDatabase() },
		func(m *machine) { m.mendToDatabase(); m.mendFromDatabase() }}
	unanswered = cut{"unanswered", // what the agent says arrives, the answers do not
		(*machine).loseFromDatabase, (*machine).mendFromDatabase}

	cuts = []cut{unplugged, silent, unanswered}
)

func (m *machine) loseToDatabase() {
	m.inside("ip", "neigh", "replace", m.database.hereAddr.Addr().String(), "lladdr", nobody, "dev", m.database.there, "nud", "permanent")
}

func (m *machine) mendToDatabase() {
	m.inside("ip", "neigh", "del", m.database.hereAddr.Addr().String(), "dev", m.database.there)
}

func (m *machine) loseFromDatabase() {
	m.outside("ip", "neigh", "replace", m.database.thereAddr.Addr().String(), "lladdr", nobody, "dev", m.database.here, "nud", "permanent")
}

func (m *machine) mendFromDatabase() {
	m.outside("ip", "neigh", "del", m.database.thereAddr.Addr().String(), "dev", m.database.here)
}

// agentOn starts an agent on the machine, whose cables lead to the world's
// database and ledger.
func (w *world) agentOn(m *machine, name string) *process {
	w.t.Helper()
	path, err := standard()
	if err != nil {
		w.t.Fatal(err)
	}
	address, err := url.Parse(w.server.TCPURL(w.dbname))
	if err != nil {
		w.t.Fatal(err)
	}
	address.Host = net.JoinHostPort(m.database.hereAddr.Addr().String(), address.Port())
	host := m.service.hereAddr.Addr().String()
	cmd := w.command(path, name, address.String())
	inside := append(m.enter(), cmd.Args...)
	cmd = exec.Command(inside[0], inside[1:]...)
	return w.launch(name, cmd, fmt.Sprintf("http://%s", w.ledger.listen(w.t, host)), host)
}

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// sshDialer reaches an engine as Docker's own tools do: the ssh program with
// its configuration and agent, and `docker system dial-stdio` at the other end.
func sshDialer(u *url.URL) func(context.Context, string, string) (net.Conn, error) {
	args := []string{"-o", "ConnectTimeout=10", "-o", "BatchMode=yes", "-T"}
	if name := u.User.Username(); name != "" {
		args = append(args, "-l", name)
	}
	if u.Port() != "" {
		args = append(args, "-p", u.Port())
	}
	args = append(args, "--", u.Hostname(), "docker")
	if path := strings.TrimSuffix(u.Path, "/"); path != "" {
		args = append(args, "--host", "unix://"+path)
	}
	args = append(args, "system", "dial-stdio")
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c := &commandConn{cmd: exec.Command("ssh", args...), host: u.Hostname()}
		var err error
		if c.in, err = c.cmd.StdinPipe(); err != nil {
			return nil, err
		}
		// Not StdoutPipe: Wait would close it under a reader.
		var theirs *os.File
		if c.out, theirs, err = os.Pipe(); err != nil {
			return nil, err
		}
		c.cmd.Stdout, c.cmd.Stderr = theirs, &c.said
		err = c.cmd.Start()
		theirs.Close()
		if err != nil {
			c.out.Close()
			return nil, &net.OpError{Op: "dial", Net: "ssh", Err: err}
		}
		c.ended = make(chan struct{})
		go func() {
			_ = c.cmd.Wait() // how it ended says no more than what it said
			close(c.ended)
		}()
		return c, nil
	}
}

// commandConn is a connection through a program's two streams.
type commandConn struct {
	cmd   *exec.Cmd
	host  string
	in    io.WriteCloser
	out   *os.File
	said  lastWords
	ended chan struct{}
	once  sync.Once
}

func (c *commandConn) Read(b []byte) (int, error) {
	n, err := c.out.Read(b)
	if n == 0 && errors.Is(err, io.EOF) {
		<-c.ended
		if text := c.said.String(); text != "" {
			return 0, &net.OpError{Op: "read", Net: "ssh", Err: fmt.Errorf("ssh to %s: %s", c.host, text)}
		}
	}
	return n, err
}

func (c *commandConn) Write(b []byte) (int, error) {
	n, err := c.in.Write(b)
	if err != nil {
		select {
		case <-c.ended:
			if text := c.said.String(); text != "" {
				err = &net.OpError{Op: "write", Net: "ssh", Err: fmt.Errorf("ssh to %s: %s", c.host, text)}
			}
		default:
		}
	}
	return n, err
}

// CloseWrite ends what the other end reads.
func (c *commandConn) CloseWrite() error { return c.in.Close() }

// Close ends the program.
func (c *commandConn) Close() error {
	c.once.Do(func() {
		_ = c.in.Close() // closed already after CloseWrite
		_ = c.cmd.Process.Kill()
		<-c.ended
		_ = c.out.Close()
	})
	return nil
}

func (c *commandConn) LocalAddr() net.Addr  { return sshAddr("local") }
func (c *commandConn) RemoteAddr() net.Addr { return sshAddr(c.host) }

// SetDeadline and its like hold for reading alone: a write goes to a program
// that reads at once.
func (c *commandConn) SetDeadline(t time.Time) error      { return c.out.SetReadDeadline(t) }
func (c *commandConn) SetReadDeadline(t time.Time) error  { return c.out.SetReadDeadline(t) }
func (c *commandConn) SetWriteDeadline(t time.Time) error { return nil }

type sshAddr string

func (sshAddr) Network() string  { return "ssh" }
func (a sshAddr) String() string { return string(a) }

// lastWords keeps the end of what ssh says.
type lastWords struct {
	mu   sync.Mutex
	text []byte
}

func (w *lastWords) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, b...)
	w.text = w.text[max(0, len(w.text)-500):]
	return len(b), nil
}

func (w *lastWords) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(strings.Fields(string(w.text)), " ")
}

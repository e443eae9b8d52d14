//go:build unix

package devdb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
)

// healthDeadline is how long a shared server may take to answer one query
// before a process starts another one instead. A busy machine is not ill.
const healthDeadline = 15 * time.Second

// sharedOptions are for several test packages at once, each with many pools.
var sharedOptions = Options{Settings: map[string]string{"max_connections": "300"}}

// Shared returns the one server that all processes of a user share while any
// of them uses it, so that the packages of a test run need not start one each.
// The first caller starts it. Call Stop to end this process's use, or end the
// process; the last user's end stops the server. One that a killed run left is
// taken over. One that does not answer, or that was started from other programs
// or with other settings, is left to its users and another one is started.
//
// It is not durable and allows 300 connections. Restart answers ErrShared.
func Shared(ctx context.Context) (*Server, error) {
	return share(ctx, sharedOptions)
}

func share(ctx context.Context, opts Options) (*Server, error) {
	h, err := survey(ctx, opts)
	if err != nil {
		return nil, err
	}
	prefix, err := h.sharedName(opts)
	if err != nil {
		return nil, err
	}
	tried := map[string]bool{} // folders that turned out not to be usable
	for {
		base, err := h.base.lock(ctx)
		if err != nil {
			return nil, err
		}
		folders, err := filepath.Glob(filepath.Join(h.base.path, prefix+"*"))
		if err != nil {
			base.Close()
			return nil, err
		}
		folders = slices.DeleteFunc(folders, func(f string) bool { return tried[f] })
		if len(folders) == 0 {
			return h.establish(ctx, base, prefix, opts)
		}
		base.Close()
		for _, folder := range folders {
			s, err := h.join(ctx, folder)
			if err == nil {
				return s, nil
			}
			if cause := context.Cause(ctx); cause != nil {
				return nil, fmt.Errorf("join the shared PostgreSQL: %w", cause)
			}
			tried[folder] = true
		}
	}
}

// sharedName is how the folders of servers of the same make begin.
func (h host) sharedName(opts Options) (string, error) {
	kind, err := json.Marshal([]any{h.bin, h.as.name, opts.settings()}) // map keys come out sorted
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(kind)
	return sharedPrefix + hex.EncodeToString(sum[:4]) + "-", nil
}

// establish starts a shared server. The base is locked by the caller and let go
// here, once the new folder is there to be seen; that one is locked until the
// server runs, and others wait for it.
func (h host) establish(ctx context.Context, base *os.File, prefix string, opts Options) (*Server, error) {
	defer base.Close()
	folder, hold, err := h.base.newFolder(h.as, prefix)
	if err != nil {
		return nil, err
	}
	lock, err := lockFolder(ctx, folder)
	if err != nil {
		hold.release()
		return nil, err
	}
	defer lock.Close()
	base.Close()
	if err := h.sweep(ctx, opts.Log); err != nil {
		hold.release()
		return nil, err
	}
	s, err := h.boot(ctx, folder, hold, opts)
	if err != nil {
		return nil, err
	}
	s.shared = true
	return s, nil
}

// join becomes a user of the server in a folder. Any error means that this
// server cannot be used; the folder goes by its guard or the next sweep.
func (h host) join(ctx context.Context, folder string) (*Server, error) {
	lock, err := lockFolder(ctx, folder)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	ill := filepath.Join(folder, "ill")
	if _, err := os.Lstat(ill); err == nil {
		return nil, fmt.Errorf("the server in %s does not answer", folder)
	}
	hold, err := takeHold(folder)
	if errors.Is(err, errNoGuard) {
		hold, err = guard(folder)
	}
	if err != nil {
		return nil, err
	}
	s := &Server{cluster: cluster{folder: folder, bin: h.bin, as: h.as}, shared: true, hold: hold}
	err = takeTurn(folder)
	if err == nil {
		s.state, err = readState(folder)
	}
	if err == nil {
		err = s.ping(ctx)
		if err != nil && context.Cause(ctx) == nil {
			err = errors.Join(err, os.WriteFile(ill, nil, 0o600)) // spares others the wait
		}
	}
	if err != nil {
		hold.release()
		return nil, err
	}
	return s, nil
}

func (s *Server) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthDeadline)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return conn.Ping(ctx)
}

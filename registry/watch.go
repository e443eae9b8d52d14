package registry

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// WatchOptions tune a Watcher; the zero value is what agents use.
type WatchOptions struct {
	// Debounce is how long a file must be quiet before it is read; 100 ms
	// when zero. A file that is never quiet is read every ten of them.
	Debounce time.Duration
	// Poll is the net below the notifications, for file systems that give
	// none; 30 s when zero.
	Poll time.Duration
	// Loaded is the configuration that is in use already; nil for none. While
	// the file and its secrets are as they were, there is nothing to deliver.
	Loaded *Config
	// Logger is told when notifications are not to be had; nil for nobody.
	Logger *slog.Logger
}

// Event is one state of the file. One of three holds: Config is a good file
// (Diags may warn), Diags holds errors, or Err tells why the file could not be
// read. Only a Config is ever to be applied. None of them holds in the answer
// to a Reload that found the file as it was.
type Event struct {
	Config *Config
	Diags  Diagnostics
	Err    error
	Asked  bool // it answers a Reload
}

// Watcher delivers a registry file's states as they come: after in-place
// writes, atomic renames and swapped links such as Kubernetes makes, of the
// file itself and of the files that its secrets come from. Making
// one has no effect; Run does the work and leaves nothing behind.
type Watcher struct {
	path   string
	opt    Options
	watch  WatchOptions
	events chan Event
	reload chan struct{}

	state   string      // what was delivered last
	files   secretFiles // that its secrets came from
	checked func()      // tests wait for a look at the file with it
	notify  func() (*fsnotify.Watcher, error)
}

// NewWatcher makes a watcher for the file at path, which Load reads with opt.
func NewWatcher(path string, opt Options, watch WatchOptions) *Watcher {
	if watch.Debounce <= 0 {
		watch.Debounce = 100 * time.Millisecond
	}
	if watch.Poll <= 0 {
		watch.Poll = 30 * time.Second
	}
	if watch.Logger == nil {
		watch.Logger = slog.New(slog.DiscardHandler)
	}
	return &Watcher{
		path: filepath.Clean(path), opt: opt, watch: watch,
		events: make(chan Event), reload: make(chan struct{}, 1), checked: func() {}, notify: fsnotify.NewWatcher,
	}
}

// Events is where the states come, one at a time. A state that nobody took
// yet is replaced by a newer one. The channel is closed when Run returns.
func (w *Watcher) Events() <-chan Event { return w.events }

// Reload makes Run look at the file now, as after a SIGHUP, and answer by an
// event though nothing changed. It does not wait.
func (w *Watcher) Reload() {
	select {
	case w.reload <- struct{}{}:
	default: // one look is due already
	}
}

// Run watches until ctx ends; it returns ctx's error. It looks at the file
// first, so that a change between Load and Run is not lost. It may be called
// once.
func (w *Watcher) Run(ctx context.Context) error {
	defer close(w.events)
	if loaded := w.watch.Loaded; loaded != nil {
		w.state, w.files = loaded.Hash, loaded.files
	}
	n := w.notifier()
	defer n.close()
	poll := time.NewTicker(w.watch.Poll)
	defer poll.Stop()

	pending := w.look()
	var quiet <-chan time.Time // fires when the file has been quiet
	var since time.Time        // the first change that was not looked at yet
	for {
		var out chan Event
		var next Event
		if pending != nil {
			out, next = w.events, *pending
		}
		look, asked := false, false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case out <- next:
			pending = nil
		case e, ok := <-n.events():
			if !ok {
				n.close()
				continue
			}
			if !n.concerns(e.Name) {
				continue
			}
			now := time.Now()
			if since.IsZero() {
				since = now
			}
			wait := min(w.watch.Debounce, max(0, 10*w.watch.Debounce-now.Sub(since)))
			quiet = time.After(wait)
		case err := <-n.errors():
			// Lost notifications: whatever they were, look.
			w.watch.Logger.Warn("file notifications were lost; the file is read again", "file", w.path, "error", err)
			look = true
		case <-quiet:
			look = true
		case <-w.reload:
			look, asked = true, true
		case <-poll.C:
			n.renew()
			look = true
		}
		if look {
			quiet, since = nil, time.Time{}
			if e := w.look(); e != nil {
				asked = asked || pending != nil && pending.Asked
				pending = e
			}
			if asked && pending == nil {
				pending = &Event{}
			}
			if asked {
				pending.Asked = true
			}
			n.follow()
			w.checked()
		}
	}
}

// look reads the file and returns its state when it is not the last one.
func (w *Watcher) look() *Event {
	data, err := ReadFile(w.path)
	if err != nil {
		if state := "error: " + err.Error(); state != w.state {
			w.state = state
			return &Event{Err: err}
		}
		return nil
	}
	state := hashOf(data, w.opt.Env)
	if state == w.state && !w.files.changed(w.opt.read()) {
		return nil
	}
	config, diags, files := parse(w.path, data, w.opt)
	w.state, w.files = state, files
	return &Event{Config: config, Diags: diags}
}

// notifier holds the watches: on the file's directory and, where the file is
// a link, on the directory of what it leads to.
type notifier struct {
	w     *Watcher
	fs    *fsnotify.Watcher // nil when the host gives no notifications
	names map[string]bool   // files whose events matter, by base name
	dirs  map[string]bool
}

func (w *Watcher) notifier() *notifier {
	n := &notifier{w: w}
	n.renew()
	return n
}

// renew starts the watches anew: a directory that was replaced is another one
// although its name is the same.
func (n *notifier) renew() {
	n.close()
	fs, err := n.w.notify()
	if err != nil {
		n.w.watch.Logger.Warn("no file notifications; changes are seen by polling alone",
			"file", n.w.path, "every", n.w.watch.Poll, "error", err)
		return
	}
	n.fs, n.dirs = fs, map[string]bool{}
	n.follow()
}

// follow watches where the file is now.
func (n *notifier) follow() {
	if n.fs == nil {
		return
	}
	want := map[string]bool{filepath.Dir(n.w.path): true}
	n.names = map[string]bool{filepath.Base(n.w.path): true, "..data": true}
	if target, err := filepath.EvalSymlinks(n.w.path); err == nil {
		want[filepath.Dir(target)] = true
		n.names[filepath.Base(target)] = true
	}
	for path := range n.w.files {
		want[filepath.Dir(path)] = true
		n.names[filepath.Base(path)] = true
		if target, err := filepath.EvalSymlinks(path); err == nil {
			want[filepath.Dir(target)] = true
			n.names[filepath.Base(target)] = true
		}
	}
	for dir := range n.dirs {
		if !want[dir] {
			// The directory may be gone already, and its watch with it.
			if err := n.fs.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
				n.w.watch.Logger.Debug("a watch could not be removed", "directory", dir, "error", err)
			}
			delete(n.dirs, dir)
		}
	}
	for dir := range want {
		// Adding a directory again is free and mends a watch that was lost.
		if err := n.fs.Add(dir); err == nil {
			n.dirs[dir] = true
		}
	}
}

// concerns tells whether an event may be about the file. Directories are
// included: theirs come when they are moved or removed.
func (n *notifier) concerns(name string) bool {
	base := filepath.Base(name)
	return n.names[base] || n.dirs[name] || strings.HasPrefix(base, "..data")
}

func (n *notifier) events() chan fsnotify.Event {
	if n.fs == nil {
		return nil
	}
	return n.fs.Events
}

func (n *notifier) errors() chan error {
	if n.fs == nil {
		return nil
	}
	return n.fs.Errors
}

func (n *notifier) close() {
	if n.fs != nil {
		n.fs.Close()
		n.fs = nil
	}
}

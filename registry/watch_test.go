package registry

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"go.uber.org/goleak"
)

// watching is a running Watcher whose looks at the file can be waited for.
type watching struct {
	*Watcher
	t     *testing.T
	looks chan struct{}
}

func watch(t *testing.T, path string, poll time.Duration) *watching {
	t.Helper()
	return watchBy(t, path, WatchOptions{Debounce: 5 * time.Millisecond, Poll: poll}, fsnotify.NewWatcher)
}

func watchBy(t *testing.T, path string, opt WatchOptions, notify func() (*fsnotify.Watcher, error)) *watching {
	t.Helper()
	w := &watching{Watcher: NewWatcher(path, Options{LookupEnv: noEnv}, opt), t: t, looks: make(chan struct{}, 1000)}
	w.checked = func() { w.looks <- struct{}{} }
	w.notify = notify
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run returned %v", err)
		}
		goleak.VerifyNone(t)
	})
	return w
}

func (w *watching) next() Event {
	w.t.Helper()
	select {
	case e := <-w.Events():
		return e
	case <-time.After(20 * time.Second):
		w.t.Fatal("no event came")
	}
	return Event{}
}

// service waits for a good file whose only service has this name.
func (w *watching) service(name string) {
	w.t.Helper()
	e := w.next()
	if e.Config == nil || len(e.Config.Services) != 1 || e.Config.Services[0].Name != name {
		w.t.Fatalf("want the service %s, got %+v", name, e)
	}
}

func (w *watching) looked() {
	w.t.Helper()
	select {
	case <-w.looks:
	case e := <-w.Events():
		w.t.Fatalf("an event came although nothing changed: %+v", e)
	case <-time.After(20 * time.Second):
		w.t.Fatal("nobody looked at the file")
	}
}

func named(name string) string {
	return "services:\n- name: " + name + "\n  type: t\n  category: c\n  operations: [{name: o}]\n"
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const never = time.Hour

func TestAnInPlaceWriteIsSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	put(t, path, named("one"))
	w := watch(t, path, never)
	w.service("one")
	put(t, path, named("two"))
	w.service("two")
}

func TestAnAtomicRenameIsSeen(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.yaml")
	put(t, path, named("one"))
	w := watch(t, path, never)
	w.service("one")
	for _, name := range []string{"two", "three"} {
		put(t, filepath.Join(dir, ".r.tmp"), named(name))
		must(t, os.Rename(filepath.Join(dir, ".r.tmp"), path))
		w.service(name)
	}
}

func TestAKubernetesLinkSwapIsSeen(t *testing.T) {
	dir := t.TempDir()
	version := func(name string) string {
		must(t, os.Mkdir(filepath.Join(dir, "..v_"+name), 0o755))
		put(t, filepath.Join(dir, "..v_"+name, "r.yaml"), named(name))
		return "..v_" + name
	}
	must(t, os.Symlink(version("one"), filepath.Join(dir, "..data")))
	path := filepath.Join(dir, "r.yaml")
	must(t, os.Symlink(filepath.Join("..data", "r.yaml"), path))
	w := watch(t, path, never)
	w.service("one")
	for i, name := range []string{"two", "three"} {
		must(t, os.Symlink(version(name), filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
		must(t, os.RemoveAll(filepath.Join(dir, "..v_"+[]string{"one", "two"}[i])))
		w.service(name)
	}
}

func TestAChangeOfALinksTargetElsewhereIsSeen(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target.yaml")
	put(t, target, named("one"))
	path := filepath.Join(t.TempDir(), "r.yaml")
	must(t, os.Symlink(target, path))
	w := watch(t, path, never)
	w.service("one")
	put(t, target, named("two"))
	w.service("two")
}

func TestAReplacedDirectoryIsSeenByThePoll(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "registry")
	must(t, os.Mkdir(dir, 0o755))
	path := filepath.Join(dir, "r.yaml")
	put(t, path, named("one"))
	w := watch(t, path, 20*time.Millisecond)
	w.service("one")
	other := filepath.Join(parent, "other")
	must(t, os.Mkdir(other, 0o755))
	put(t, filepath.Join(other, "r.yaml"), named("two"))
	must(t, os.Rename(dir, filepath.Join(parent, "old")))
	must(t, os.Rename(other, dir))
	for {
		e := w.next() // between the two renames the file was missing
		if e.Config != nil && e.Config.Services[0].Name == "two" {
			return
		}
		if !errors.Is(e.Err, ErrNotFound) {
			t.Fatalf("%+v", e)
		}
	}
}

func TestTheSameContentYieldsNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	put(t, path, named("one"))
	w := watch(t, path, never)
	w.service("one")
	put(t, path, named("one"))
	w.looked()
	put(t, path, named("two"))
	w.service("two")
}

func TestAReloadIsAnsweredThoughNothingChanged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	put(t, path, named("one"))
	w := watchBy(t, path, WatchOptions{Poll: never}, none)
	w.service("one")
	w.Reload()
	if e := w.next(); !e.Asked || e.Config != nil || e.Err != nil || e.Diags != nil {
		t.Fatalf("%+v", e)
	}
	put(t, path, named("two"))
	w.Reload()
	if e := w.next(); !e.Asked || e.Config == nil || e.Config.Services[0].Name != "two" {
		t.Fatalf("%+v", e)
	}
	put(t, path, "services: {")
	w.Reload()
	if e := w.next(); !e.Asked || !e.Diags.Unreadable() {
		t.Fatalf("%+v", e)
	}
}

// none is a host that gives no file notifications.
func none() (*fsnotify.Watcher, error) { return nil, errors.New("no notifications here") }

func TestWithoutNotificationsThePollSeesEveryKindOfChange(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "r.yaml")
	put(t, path, named("one"))
	w := watchBy(t, path, WatchOptions{Poll: 5 * time.Millisecond}, none)
	w.service("one")
	put(t, filepath.Join(dir, "tmp"), named("two"))
	must(t, os.Rename(filepath.Join(dir, "tmp"), path))
	w.service("two")
	must(t, os.Remove(path))
	if e := w.next(); !errors.Is(e.Err, ErrNotFound) {
		t.Fatalf("%+v", e)
	}
	must(t, os.Symlink(filepath.Join(dir, "other"), filepath.Join(dir, "link")))
	put(t, filepath.Join(dir, "other"), named("three"))
	must(t, os.Rename(filepath.Join(dir, "link"), path))
	w.service("three")
}

// Half a file may be a valid registry by itself.
func TestAnInPlaceWriteInPiecesIsReadWhenTheFileIsQuiet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	put(t, path, named("one"))
	w := watchBy(t, path, WatchOptions{Debounce: time.Second, Poll: never}, fsnotify.NewWatcher)
	w.service("one")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	must(t, err)
	for piece := range slices.Chunk([]byte(named("two")+"- name: three\n  type: t\n  category: c\n  operations: [{name: o}]\n"), 7) {
		_, err := f.Write(piece)
		must(t, err)
	}
	must(t, f.Close())
	if e := w.next(); e.Config == nil || len(e.Config.Services) != 2 {
		t.Fatalf("a part of the file was taken for the whole: %+v", e)
	}
}

func TestAFileThatWasRemovedAndPutBackIsDeliveredAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	put(t, path, named("one"))
	w := watch(t, path, never)
	w.service("one")
	must(t, os.Remove(path))
	if e := w.next(); !errors.Is(e.Err, ErrNotFound) {
		t.Fatalf("%+v", e)
	}
	put(t, path, named("one"))
	w.service("one")
}

func TestABadFileYieldsNoConfigAndTheGoodOneComesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	put(t, path, named("one"))
	w := watch(t, path, never)
	w.service("one")
	put(t, path, "services: {")
	if e := w.next(); e.Config != nil || !e.Diags.Unreadable() || e.Err != nil {
		t.Fatalf("%+v", e)
	}
	must(t, os.Remove(path))
	if e := w.next(); e.Config != nil || !errors.Is(e.Err, ErrNotFound) {
		t.Fatalf("%+v", e)
	}
	put(t, filepath.Join(filepath.Dir(path), "tmp"), named("one"))
	must(t, os.Rename(filepath.Join(filepath.Dir(path), "tmp"), path))
	w.service("one")
}

func TestTheConfigurationInUseIsNotDeliveredAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	put(t, path, named("one"))
	c, _, err := Load(path, Options{LookupEnv: noEnv})
	must(t, err)
	w := NewWatcher(path, Options{LookupEnv: noEnv}, WatchOptions{Loaded: c, Poll: never, Debounce: time.Millisecond})
	looks := make(chan struct{}, 100)
	w.checked = func() { looks <- struct{}{} }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	w.Reload()
	select {
	case <-looks:
	case <-time.After(20 * time.Second):
		t.Error("nobody looked")
	}
	if e := <-w.Events(); e.Config != nil || !e.Asked {
		t.Errorf("delivered again: %+v", e)
	}
	cancel()
	<-done
	if _, open := <-w.Events(); open {
		t.Error("the channel is closed when Run returns")
	}
}

func TestAStateThatNobodyTookIsReplacedByTheNewest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.yaml")
	put(t, path, named("one"))
	w := watch(t, path, never)
	put(t, filepath.Join(filepath.Dir(path), "tmp"), named("two"))
	must(t, os.Rename(filepath.Join(filepath.Dir(path), "tmp"), path))
	w.Reload()
	select {
	case <-w.looks:
	case <-time.After(20 * time.Second):
		t.Fatal("nobody looked")
	}
	w.service("two")
}

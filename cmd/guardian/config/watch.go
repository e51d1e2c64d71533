package config

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Watcher re-reads a configuration file when it changes. fsnotify is used
// directly: viper.WatchConfig cannot be stopped, and swaps its values before
// anybody has checked them.
type Watcher struct {
	Path string
	// Seen is the content that the present configuration was read from; nil
	// makes the first look report the file as changed.
	Seen []byte
	// Apply gets each new valid configuration, in order, from one goroutine.
	Apply func(Config)
	// Report gets what is wrong with a new file, once for each content. The
	// configuration before stays in force.
	Report func(error)
	// Unwatched gets why the kernel tells of no changes, or missed some. It says
	// nothing about the file.
	Unwatched func(error)
	// Poll is how often the file is looked at without an event, which heals
	// missed ones and symlinks into other folders. Default 1m.
	Poll time.Duration

	notify func() (*fsnotify.Watcher, error) // nil: fsnotify.NewWatcher
}

// settle is how long the folder must be quiet before the file is read: writers
// that truncate first would else be seen half-way.
const settle = 100 * time.Millisecond

// Run blocks until ctx is done, and returns nil then. Where the kernel has no
// watch to give (its limits are shared by all of a node) the file is polled.
func (w *Watcher) Run(ctx context.Context) error {
	if w.Poll == 0 {
		w.Poll = time.Minute
	}
	var events <-chan fsnotify.Event
	var failures <-chan error
	if notify, err := w.watch(); err != nil {
		w.Unwatched(fmt.Errorf("watch configuration %s (it is looked at every %s instead): %w", w.Path, w.Poll, err))
	} else {
		defer notify.Close()
		events, failures = notify.Events, notify.Errors
	}
	poll := time.NewTicker(w.Poll)
	defer poll.Stop()
	look := time.After(0) // what changed before the watch began
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-events:
			look = time.After(settle)
		case err := <-failures:
			w.Unwatched(fmt.Errorf("watch configuration %s: %w", w.Path, err))
		case <-look:
			w.once()
		case <-poll.C:
			w.once()
		}
	}
}

// watch asks for events of the file's folder. Not of the file: Kubernetes
// replaces a ConfigMap's content by renaming the symlink ..data beside it,
// editors by renaming the file.
func (w *Watcher) watch() (*fsnotify.Watcher, error) {
	start := w.notify
	if start == nil {
		start = fsnotify.NewWatcher
	}
	notify, err := start()
	if err != nil {
		return nil, err
	}
	if err := notify.Add(filepath.Dir(w.Path)); err != nil {
		return nil, errors.Join(err, notify.Close())
	}
	return notify, nil
}

// once reads the file and hands on what is new.
func (w *Watcher) once() {
	b, err := os.ReadFile(w.Path)
	if err != nil {
		if w.Seen != nil {
			w.Seen = nil // report a missing file once, and take it up when it is back
			w.Report(fmt.Errorf("read configuration: %w", err))
		}
		return
	}
	if w.Seen != nil && bytes.Equal(b, w.Seen) {
		return
	}
	w.Seen = b
	c, err := Parse(b)
	if none := RequireGuards(b); errors.Is(none, errNoGuards) {
		err = errors.Join(none, err)
	}
	if err != nil {
		w.Report(InFile(w.Path, err))
		return
	}
	w.Apply(c)
}

// errNoGuards is RequireGuards' answer to a file without a list of guards.
var errNoGuards = errors.New("guards: no list: want the guards, or guards: [] to have none")

// RequireGuards is an error for a file that has no list of guards: one that was cut
// to nothing, or whose entries were commented out, is an accident, and no brake
// must go by one. Not to have any has to be said.
func RequireGuards(b []byte) error {
	tree, err := parseTree(b)
	if err != nil {
		return err
	}
	if _, ok := tree["guards"].([]any); !ok {
		return errNoGuards
	}
	return nil
}

package main

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

// ConfigWatcher re-reads a configuration file when it changes. fsnotify is used
// directly: viper.WatchConfig cannot be stopped, and swaps its values before
// anybody has checked them.
type ConfigWatcher struct {
	Path string
	// Seen is the content that the present configuration was read from; nil
	// makes the first look report the file as changed.
	Seen []byte
	// Apply gets each new valid configuration, in order, from one goroutine.
	Apply func(Config)
	// Report gets what is wrong with a new file, once for each content. The
	// configuration before stays in force.
	Report func(error)
	// Poll is how often the file is looked at without an event, which heals
	// missed ones and symlinks into other folders. Default 1m.
	Poll time.Duration
}

// settle is how long the folder must be quiet before the file is read: writers
// that truncate first would else be seen half-way.
const settle = 100 * time.Millisecond

// Run blocks until ctx is done, and returns nil then.
func (w *ConfigWatcher) Run(ctx context.Context) error {
	if w.Poll == 0 {
		w.Poll = time.Minute
	}
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch configuration %s: %w", w.Path, err)
	}
	defer notify.Close()
	// The folder, not the file: Kubernetes replaces a ConfigMap's content by
	// renaming the symlink ..data beside it, editors by renaming the file.
	if err := notify.Add(filepath.Dir(w.Path)); err != nil {
		return fmt.Errorf("watch configuration %s: %w", w.Path, err)
	}
	poll := time.NewTicker(w.Poll)
	defer poll.Stop()
	look := time.After(0) // what changed before the watch began
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-notify.Events:
			look = time.After(settle)
		case err := <-notify.Errors:
			w.Report(fmt.Errorf("watch configuration %s: %w", w.Path, err))
		case <-look:
			w.once()
		case <-poll.C:
			w.once()
		}
	}
}

// once reads the file and hands on what is new.
func (w *ConfigWatcher) once() {
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
	if len(bytes.TrimSpace(b)) == 0 {
		w.Report(fmt.Errorf("configuration %s: %w", w.Path, errEmptied))
		return
	}
	c, err := ParseConfig(b)
	if err != nil {
		w.Report(fmt.Errorf("configuration %s:\n%w", w.Path, err))
		return
	}
	w.Apply(c)
}

// errEmptied keeps the guards when a file is cut to nothing: at start an empty
// file means defaults, under a running guardian it is an accident.
var errEmptied = errors.New("emptied while guardian runs: want guards, or guards: [] to have none")

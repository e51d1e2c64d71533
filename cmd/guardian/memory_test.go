package main

import (
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemoryIsSpentAtTheStartAndInABurstAloneAndGivenBackAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // a timer's goroutine calls too
		var asked []targets
		freed := 0
		m := &memory{
			set: func(t targets) {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, t)
			},
			free: func() {
				mu.Lock()
				defer mu.Unlock()
				freed++
			},
		}
		expect := func(when string, frees int, want ...targets) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(asked, want) || freed != frees {
				t.Fatalf("%s: asked for %v and freed %d times; want %v and %d", when, asked, freed, want, frees)
			}
		}
		begin := func(n int) (end func()) { return beginMany(m, n) }

		m.tune(1000)
		expect("at the start", 0, starting(1000))
		m.ready()
		m.ready()
		expect("it has started", 0, starting(1000), calm(1000))
		asked = nil

		begin(crowd - 1)()
		time.Sleep(time.Minute)
		expect("a few guards", 0)

		end := begin(2 * crowd)
		expect("many guards", 0, crowded(1000))
		m.tune(1001)
		end()
		time.Sleep(burstLasts / 2)
		end = begin(crowd)
		time.Sleep(2 * burstLasts)
		expect("the burst goes on", 0, crowded(1000))

		end()
		m.calmDown(m.bursts - 1)
		expect("a timer of an earlier end", 0, crowded(1000))
		time.Sleep(2 * burstLasts)
		expect("it is over", 1, crowded(1000), calm(1001))

		end = begin(crowd)
		end()
		m.stop()
		time.Sleep(2 * burstLasts)
		expect("stopped", 1, crowded(1000), calm(1001), crowded(1001))

		asked = nil
		early := &memory{set: m.set, free: m.free}
		early.tune(10)
		end = beginMany(early, crowd)
		early.ready()
		end()
		time.Sleep(2 * burstLasts)
		expect("a burst while it starts", 2, starting(10), crowded(10), calm(10))
	})
}

// beginMany begins with so many guards, and returns what ends with them.
func beginMany(m *memory, n int) (end func()) {
	var ends []func()
	for range n {
		ends = append(ends, m.begin())
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

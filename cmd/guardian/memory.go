package main

import (
	"os"
	"runtime/debug"
	"sync"
	"time"
)

const (
	// tidyEvery is how often memory that is not needed any more is given back.
	tidyEvery = time.Minute

	// crowd is how many guards' alerts under way at once make a burst.
	crowd = 12

	// burstLasts is for how long a burst that has ended may begin again before what it left behind is given back.
	burstLasts = time.Second
)

// targets are what is asked of the garbage collector.
type targets struct {
	percent int   // by how much the heap may grow between two collections
	limit   int64 // bytes; a soft limit
}

// calm trades a little processor time for memory: guardian's garbage is that of
// lists and watches, and it sits in every namespace. The limit is above what so
// many guards need.
func calm(guards int) targets {
	const some, each = 41 << 20, 20 << 10 // bytes
	return targets{percent: 40, limit: int64(some + each*guards)}
}

// starting is for the time until guardian is ready: what a cache is filled from is
// garbage at once, and where that is collected at calm's pace, as soon as it has
// some megabytes, collecting it takes longer than reading it.
func starting(guards int) targets { return targets{percent: 150, limit: calm(guards).limit} }

// crowded trades memory for processor time: collecting garbage near a limit takes
// half as much as the rollbacks of a burst themselves, and users wait for them.
// With more room than this the burst is no faster, and leaves more behind: what
// lives on lies scattered among the garbage.
func crowded(guards int) targets {
	const more = 16 << 20 // bytes
	return targets{percent: 80, limit: calm(guards).limit + more}
}

// memory keeps the targets of this process: calm ones, but for its start and for
// bursts of rollbacks.
type memory struct {
	set  func(targets)
	free func() // gives back what is not needed

	mu       sync.Mutex
	guards   int
	started  bool
	underWay int         // guards whose alerts have been taken and not been recorded
	burst    bool        // the targets are those of a burst
	ending   *time.Timer // nil: the burst goes on, or there is none
	bursts   int         // how many have ended, or might have: a timer that comes late knows that it is not meant
}

func newMemory() *memory { return &memory{set: setTargets, free: debug.FreeOSMemory} }

// setTargets tells the runtime. GOGC and GOMEMLIMIT in the environment go before.
func setTargets(t targets) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(t.percent)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(t.limit)
	}
}

// tune sets the targets for so many guards.
func (m *memory) tune(guards int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.guards = guards
	if !m.burst {
		m.set(m.usual())
	}
}

// usual are the targets outside of a burst. It must be called with the lock held.
func (m *memory) usual() targets {
	if !m.started {
		return starting(m.guards)
	}
	return calm(m.guards)
}

// ready notes that guardian has started. Of no memory nothing is noted.
func (m *memory) ready() {
	if m == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.started {
		return
	}
	if m.started = true; !m.burst {
		m.set(m.usual())
	}
}

// begin notes that the alerts of a guard are under way, until the returned function
// is called. Of no memory nothing is noted.
func (m *memory) begin() (end func()) {
	if m == nil {
		return func() {}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.underWay++
	if m.underWay >= crowd {
		m.stopEnding()
		if !m.burst {
			m.burst = true
			m.set(crowded(m.guards))
		}
	}
	return m.end
}

func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.underWay--
	if m.burst && m.underWay < crowd && m.ending == nil {
		of := m.bursts
		m.ending = time.AfterFunc(burstLasts, func() { m.calmDown(of) })
	}
}

// calmDown ends a burst that has not begun again since its end was awaited.
func (m *memory) calmDown(of int) {
	m.mu.Lock()
	over := m.ending != nil && m.bursts == of
	if over {
		m.ending, m.burst = nil, false
		m.set(m.usual())
	}
	m.mu.Unlock()
	if over {
		m.free()
	}
}

// stop ends the wait for a burst's end.
func (m *memory) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopEnding()
}

// stopEnding must be called with the lock held.
func (m *memory) stopEnding() {
	if m.ending != nil {
		m.ending.Stop()
		m.ending = nil
		m.bursts++
	}
}

package main

import (
	"context"
	"os"
	"runtime/debug"
	"time"
)

// tidyEvery is how often memory that is not needed any more is given back.
const tidyEvery = time.Minute

// tuneMemory trades a little processor time for memory: guardian's garbage is that of
// lists and watches, in bursts, and it sits in every namespace. The limit is a
// soft one, above what so many guards need right after a burst of rollbacks: where
// it is near, collecting garbage takes more processor time than the burst.
// GOGC and GOMEMLIMIT in the environment go before.
func tuneMemory(guards int) {
	const some, each = 41 << 20, 20 << 10 // bytes
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(40)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(int64(some + each*guards))
	}
}

// tidy gives back what the start and each burst leave behind, until ctx ends.
func (s *service) tidy(ctx context.Context) error {
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-wait.C:
		}
		if !s.controller.Ready() {
			wait.Reset(time.Second)
			continue
		}
		debug.FreeOSMemory()
		wait.Reset(tidyEvery)
	}
}

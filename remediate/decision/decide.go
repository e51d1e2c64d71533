package decision

import (
	"time"
)

// Decide says what a guard's traffic and record should be. It has no client,
// no clock and no log, and never edits its input. The package comment has its
// table.
func Decide(in Input, now time.Time) Decision {
	d := newDecider(in, now)
	d.observe()
	d.attribution = d.attribute()
	return d.tell(d.choose())
}

package main

import (
	"io"
	"os"
	"strings"

	"github.com/canary-guardian/guardian/remediate/decision"
	"github.com/canary-guardian/guardian/remediate/records"
)

// colour is a terminal's: the number of ECMA-48's "select graphic rendition".
type colour string

const (
	red    colour = "31"
	yellow colour = "33"
)

// stateColours are of the states that somebody has to look at.
var stateColours = map[decision.State]colour{
	decision.StateRolledBack: red, decision.StateBlocked: red, decision.StateDisarmed: red,
	decision.StateHeld: yellow, decision.StatePaused: yellow, decision.StateUnverified: yellow,
}

// colourful says whether a person looks at a terminal that has colours. NO_COLOR is
// https://no-color.org; a CI keeps what it is given.
func colourful(w io.Writer) bool {
	return watched(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func (c colour) paint(text string) string { return "\x1b[" + string(c) + "m" + text + "\x1b[0m" }

// paintTable colours the states of a table that is laid out already, since what is
// laid out counts each byte as a column.
func paintTable(table string, named []records.Named, all, header bool) string {
	lines := strings.SplitAfter(table, "\n")
	before, first := 0, 0 // columns before the state, and lines before the first guard
	if header {
		first = 1
	}
	width := func(title string, of func(records.Named) string) {
		longest := first * len(title)
		for _, r := range named {
			longest = max(longest, len(of(r)))
		}
		before += longest + columnGap
	}
	if all {
		width("NAMESPACE", func(r records.Named) string { return r.Namespace })
	}
	width("NAME", func(r records.Named) string { return r.Guard })
	for i, r := range named {
		state := string(r.Status.State)
		if c, ok := stateColours[r.Status.State]; ok && strings.HasPrefix(lines[first+i][before:], state) {
			lines[first+i] = lines[first+i][:before] + c.paint(state) + lines[first+i][before+len(state):]
		}
	}
	return strings.Join(lines, "")
}

package decision

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Result is what became of a request: one of a closed set.
type Result string

// The results of a request.
const (
	ResultDone       Result = "done"       // what was asked for is so
	ResultRefused    Result = "refused"    // it was not carried out
	ResultSuperseded Result = "superseded" // something else took its place before it was seen to be done
)

// Answer is what became of a request. It stands in the record from the write on
// that takes the request off it, or, of one that moves traffic, from the write on
// that tells that traffic has moved, or will not.
type Answer struct {
	ID     string        `json:"id,omitempty"`     // of the request; empty: it had none
	Action RequestAction `json:"action,omitempty"` // as By: empty of a request that another took off the record before guardian saw it
	By     string        `json:"by,omitempty"`
	Result Result        `json:"result"`
	At     time.Time     `json:"at"` // by guardian's clock
	Text   string        `json:"text"`
}

// The most of a record's answers. The oldest go first.
const (
	MaxAnswers      = 16
	MaxAnswersBytes = MaxHistoryBytes / 2
)

// answersText is the answers as JSON, without the oldest that do not fit; empty:
// there are none.
func answersText(answers []Answer) string {
	entries, size := make([][]byte, len(answers)), 1
	for i, a := range answers {
		b, err := json.Marshal(a)
		if err != nil { // no field of an answer can fail to marshal
			panic(fmt.Sprintf("marshal answer: %v", err))
		}
		entries[i], size = b, size+len(b)+1
	}
	for size > MaxAnswersBytes {
		size -= len(entries[0]) + 1
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return ""
	}
	return "[" + string(bytes.Join(entries, []byte(","))) + "]"
}

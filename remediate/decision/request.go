package decision

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// RequestAction is what a person may ask for.
type RequestAction string

// The actions of a request.
const (
	RequestRollback RequestAction = "rollback" // all traffic to stable, and lock
	RequestUnlock   RequestAction = "unlock"   // lift the lock, and allow the builds that it refuses
	RequestPause    RequestAction = "pause"    // no step forward; rollbacks go on
	RequestResume   RequestAction = "resume"   // end a pause
	RequestPromote  RequestAction = "promote"  // the next step without waiting for its interval
	RequestDisarm   RequestAction = "disarm"   // no rollback either, until Request.Until
	RequestArm      RequestAction = "arm"      // end a disarm

	RequestMarkWrong RequestAction = "mark-wrong" // note that the rollback at Request.Of was wrong; nothing moves
	RequestMarkRight RequestAction = "mark-right" // or right
)

// RequestActions lists every action that a request may have.
var RequestActions = []RequestAction{RequestRollback, RequestUnlock, RequestPause, RequestResume, RequestPromote, RequestDisarm, RequestArm, RequestMarkWrong, RequestMarkRight}

// Keys of a record's data that make up a request. They are flat, so that an
// admission policy can hold KeyRequestBy against who writes it. The first four
// stand there together or not at all.
const (
	KeyRequestAction = "request.action"
	KeyRequestBy     = "request.by"
	KeyRequestReason = "request.reason"
	KeyRequestAt     = "request.at"    // RFC 3339, by the person's clock
	KeyRequestUntil  = "request.until" // the same; of disarm alone
	KeyRequestOf     = "request.of"    // RFC 3339, by guardian's clock; of marks, and of unlock

	// KeyRequestID is of every request that waits for an answer, see Answer;
	// KeyRequestReplaces lists the ids of those that it took off the record, by
	// spaces. Alone they are no request.
	KeyRequestID       = "request.id"
	KeyRequestReplaces = "request.replaces"

	KeyRequestOnce = "request" // JSON, before the keys were flat
)

// RequestKeys lists all keys of a request.
var RequestKeys = []string{KeyRequestAction, KeyRequestBy, KeyRequestReason, KeyRequestAt, KeyRequestUntil, KeyRequestOf, KeyRequestID, KeyRequestReplaces}

// RequestIDForm is a request's id as a regular expression: the policies check it as well.
const RequestIDForm = `^[0-9A-Za-z-]{8,64}$`

var isRequestID = regexp.MustCompile(RequestIDForm)

// Request is what a person asks for, written into the record by the CLI with the
// person's own credentials and removed by guardian when it is done.
type Request struct {
	Action RequestAction `json:"action"`
	By     string        `json:"by"` // the user as the API server knows it where the admission policies are installed; else whoever may patch the ConfigMap writes any name
	Reason string        `json:"reason"`
	At     time.Time     `json:"at"`             // by the person's clock
	Until  time.Time     `json:"until,omitzero"` // end of disarm, by the same clock
	// Of is when what the request is about began: the rollback that a mark judges, or the
	// lock that an unlock means; of an unlock that saw none, At. Zero: whichever stands.
	Of time.Time `json:"of,omitzero"`

	ID       string   `json:"id,omitempty"`       // 8 to 64 letters, digits and hyphens that no other request has; empty: nobody waits for the answer
	Replaces []string `json:"replaces,omitempty"` // ids of the last requests that stood there before, and were taken off for this one

	// Bad is why the keys are no request, though some of them stand there.
	Bad string `json:"bad,omitempty"`
}

// maxReplaced is of how many requests one takes the place, at most.
const maxReplaced = 4

// Data is the request as keys of a record's data. Keys without a value are left
// out.
func (q Request) Data() map[string]string {
	data := map[string]string{}
	put := func(key, value string) {
		if value != "" {
			data[key] = value
		}
	}
	put(KeyRequestAction, string(q.Action))
	put(KeyRequestBy, q.By)
	put(KeyRequestReason, q.Reason)
	put(KeyRequestAt, requestTime(q.At))
	put(KeyRequestUntil, requestTime(q.Until))
	put(KeyRequestOf, requestTime(q.Of))
	put(KeyRequestID, q.ID)
	put(KeyRequestReplaces, strings.Join(q.Replaces, " "))
	return data
}

func requestTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// Instead returns the request as one that takes the place of was on the record; nil:
// none stands there.
func (q Request) Instead(was *Request) Request {
	if was == nil {
		return q
	}
	if q.Replaces = slices.Clone(was.Replaces); was.ID != "" {
		q.Replaces = append(q.Replaces, was.ID)
	}
	q.Replaces = q.Replaces[max(0, len(q.Replaces)-maxReplaced):]
	return q
}

// requestIn is the request that a record's data holds; nil: none. One that
// cannot be understood says so in Bad and is refused: it must not keep guardian
// from its work.
func requestIn(data map[string]string) *Request {
	if !slices.ContainsFunc(RequestKeys, func(key string) bool {
		return data[key] != "" && key != KeyRequestID && key != KeyRequestReplaces
	}) {
		if data[KeyRequestOnce] != "" {
			return &Request{Bad: fmt.Sprintf("key %s is of an older guardian: want %s", KeyRequestOnce, strings.Join(RequestKeys[:4], ", "))}
		}
		return nil
	}
	q := &Request{Action: RequestAction(data[KeyRequestAction]), By: data[KeyRequestBy], Reason: data[KeyRequestReason]}
	var missing []string
	for _, key := range RequestKeys[:4] {
		if data[key] == "" {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		q.Bad = fmt.Sprintf("without %s: want %s together", strings.Join(missing, ", "), strings.Join(RequestKeys[:4], ", "))
	}
	q.readTimes(data)
	q.readIDs(data)
	return q
}

func (q *Request) readTimes(data map[string]string) {
	for _, field := range []struct {
		key string
		to  *time.Time
	}{{KeyRequestUntil, &q.Until}, {KeyRequestOf, &q.Of}, {KeyRequestAt, &q.At}} {
		text := data[field.key]
		if text == "" {
			continue
		}
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			q.Bad = fmt.Sprintf("key %s is %q: want a time as 2006-01-02T15:04:05Z", field.key, Shorten(text))
			continue
		}
		*field.to = t.UTC()
	}
}

// readIDs leaves out what is no id: the answer would name it.
func (q *Request) readIDs(data map[string]string) {
	switch id := data[KeyRequestID]; {
	case isRequestID.MatchString(id):
		q.ID = id
	case id != "":
		q.Bad = fmt.Sprintf("key %s is %q: want 8 to 64 letters, digits and hyphens", KeyRequestID, Shorten(id))
	}
	for _, id := range strings.Fields(data[KeyRequestReplaces]) {
		if isRequestID.MatchString(id) && len(q.Replaces) < maxReplaced {
			q.Replaces = append(q.Replaces, id)
		}
	}
}

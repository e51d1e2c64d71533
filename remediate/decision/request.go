package decision

import (
	"fmt"
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
// admission policy can hold KeyRequestBy against who writes it. All but
// KeyRequestUntil and KeyRequestOf stand there together or not at all.
const (
	KeyRequestAction = "request.action"
	KeyRequestBy     = "request.by"
	KeyRequestReason = "request.reason"
	KeyRequestAt     = "request.at"    // RFC 3339, by the person's clock
	KeyRequestUntil  = "request.until" // the same; of disarm alone
	KeyRequestOf     = "request.of"    // RFC 3339, by guardian's clock; of marks alone

	KeyRequestOnce = "request" // JSON, before the keys were flat
)

// RequestKeys lists all keys of a request.
var RequestKeys = []string{KeyRequestAction, KeyRequestBy, KeyRequestReason, KeyRequestAt, KeyRequestUntil, KeyRequestOf}

// Request is what a person asks for, written into the record by the CLI with the
// person's own credentials and removed by guardian when it is done.
type Request struct {
	Action RequestAction `json:"action"`
	By     string        `json:"by"` // the user as the API server knows it
	Reason string        `json:"reason"`
	At     time.Time     `json:"at"`             // by the person's clock
	Until  time.Time     `json:"until,omitzero"` // end of disarm, by the same clock
	Of     time.Time     `json:"of,omitzero"`    // At of the entry of the history that a mark is about

	// Bad is why the keys are no request, though some of them stand there.
	Bad string `json:"bad,omitempty"`
}

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
	return data
}

func requestTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

// requestIn is the request that a record's data holds; nil: none. One that
// cannot be understood says so in Bad and is refused: it must not keep guardian
// from its work.
func requestIn(data map[string]string) *Request {
	var missing []string
	for _, key := range RequestKeys {
		if data[key] == "" && key != KeyRequestUntil && key != KeyRequestOf {
			missing = append(missing, key)
		}
	}
	if !slices.ContainsFunc(RequestKeys, func(key string) bool { return data[key] != "" }) {
		if data[KeyRequestOnce] != "" {
			return &Request{Bad: fmt.Sprintf("key %s is of an older guardian: want %s", KeyRequestOnce, strings.Join(RequestKeys[:4], ", "))}
		}
		return nil
	}
	q := &Request{Action: RequestAction(data[KeyRequestAction]), By: data[KeyRequestBy], Reason: data[KeyRequestReason]}
	if len(missing) > 0 {
		q.Bad = fmt.Sprintf("without %s: want %s together", strings.Join(missing, ", "), strings.Join(RequestKeys[:4], ", "))
	}
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
	return q
}

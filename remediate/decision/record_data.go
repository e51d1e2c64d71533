package decision

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Keys of a record's data.
const (
	KeyLock            = "lock"            // JSON of a Lock; absent: not locked
	KeyRefused         = "refused"         // builds that are refused, by spaces
	KeyDeny            = "deny"            // destinations that a lock denies traffic, host/subset, by spaces
	KeyDenyMatchRoutes = "denyMatchRoutes" // "true": on routes with conditions too
	KeyDenyMirrors     = "denyMirrors"     // "true": as mirrors too
	KeyStable          = "stable"          // stable's destinations while locked, host/subset, by spaces
	KeyVirtualServices = "virtualServices" // names of those that the lock is about, by spaces
	KeyMessage         = "message"         // what a user reads whose write the lock refuses
	KeyStatus          = "status"          // JSON of a Status
	KeyHistory         = "history"         // JSON of HistoryEntries, oldest first, at most MaxHistoryBytes
	KeyChanged         = "changed"         // JSON of the Changes that a rollback has to give back
	KeyReceipt         = "receipt"         // JSON of a Receipt, of the last rollback
	KeyAnswers         = "answers"         // JSON of Answers, oldest first, at most MaxAnswers and MaxAnswersBytes
)

// OwnKeys lists what guardian writes, but for requests, which are people's.
var OwnKeys = []string{KeyLock, KeyRefused, KeyDeny, KeyDenyMatchRoutes, KeyDenyMirrors, KeyStable, KeyVirtualServices, KeyMessage, KeyStatus, KeyHistory,
	KeyChanged, KeyReceipt, KeyAnswers}

// ReadData is the record that a ConfigMap's data holds, but for the history, whose
// text is kept as it is (see readHistory). What cannot be read is left out, and bad
// says what and why; a lock that cannot be read stays if the ConfigMap's label says
// that there is one (locked), for a person to lift.
func ReadData(data map[string]string, locked bool) (r Record, bad []string) {
	if err := ReadKey(data, KeyLock, &r.Lock); err != nil {
		r.Lock, bad = nil, append(bad, err.Error())
		if locked {
			r.Lock = &Lock{Kind: LockManual, By: byUnreadable, Reason: "the lock in the record cannot be read, so a person has to lift it"}
		}
	}
	if err := ReadKey(data, KeyStatus, &r.Status); err != nil {
		r.Status, bad = Status{}, append(bad, err.Error())
	}
	if err := ReadKey(data, KeyChanged, &r.Changed); err != nil {
		r.Changed, bad = nil, append(bad, err.Error())
	}
	if err := ReadKey(data, KeyReceipt, &r.Receipt); err != nil {
		r.Receipt, bad = nil, append(bad, err.Error())
	}
	if err := ReadKey(data, KeyAnswers, &r.Answers); err != nil {
		r.Answers, bad = nil, append(bad, err.Error())
	}
	r.Request = requestIn(data)
	r.past = data[KeyHistory]
	r.Refused = strings.Fields(data[KeyRefused])
	r.Deny = strings.Fields(data[KeyDeny])
	r.DenyMatchRoutes = data[KeyDenyMatchRoutes] == "true"
	r.DenyMirrors = data[KeyDenyMirrors] == "true"
	r.Stable = strings.Fields(data[KeyStable])
	r.VirtualServices = strings.Fields(data[KeyVirtualServices])
	r.Message = data[KeyMessage]
	return r, bad
}

// ReadKey reads one key of a record's data. The error names it.
func ReadKey(data map[string]string, key string, to any) error {
	text := data[key]
	if text == "" {
		return nil
	}
	if err := json.Unmarshal([]byte(text), to); err != nil {
		return fmt.Errorf("key %s: %w", key, err)
	}
	return nil
}

// PastText is the history as readData has left it; empty: there is none, or
// readHistory has taken it apart.
func (r Record) PastText() string { return r.past }

// ReadHistory takes the text of the history apart. One that cannot be read is left
// out, and the error names its key.
func (r *Record) ReadHistory() error {
	var h []HistoryEntry
	text := map[string]string{KeyHistory: r.past}
	if r.past = ""; text[KeyHistory] == "" {
		return nil
	}
	if err := ReadKey(text, KeyHistory, &h); err != nil {
		return err
	}
	r.History = h
	return nil
}

// CheckHistory leaves the text as it is, unless it cannot be read: then it is left
// out, and the error names its key.
func (r *Record) CheckHistory() error {
	c := *r
	err := c.ReadHistory()
	if err != nil {
		r.past = ""
	}
	return err
}

// NewestFirst goes through the whole history. What is in past has been found to
// be readable.
func (r Record) NewestFirst() iter.Seq[HistoryEntry] {
	return func(yield func(HistoryEntry) bool) {
		for _, e := range slices.Backward(r.History) {
			if !yield(e) {
				return
			}
		}
		for _, e := range slices.Backward(r.pastEntries()) {
			if !yield(e) {
				return
			}
		}
	}
}

func (r Record) pastEntries() []HistoryEntry {
	var past []HistoryEntry
	if r.past == "" || json.Unmarshal([]byte(r.past), &past) != nil {
		return nil
	}
	return past
}

// Data is the record as a ConfigMap's data. Empty keys are left out; history
// is cut from its oldest end to at most 32 KiB.
func (r Record) Data() map[string]string {
	data := map[string]string{}
	put := func(key string, v any) {
		b, err := json.Marshal(v)
		if err != nil { // no field of a record can fail to marshal
			panic(fmt.Sprintf("marshal record key %s: %v", key, err))
		}
		data[key] = string(b)
	}
	if r.Lock != nil {
		put(KeyLock, r.Lock)
	}
	if r.Request != nil {
		maps.Copy(data, r.Request.Data())
	}
	if len(r.Changed) > 0 {
		put(KeyChanged, r.Changed)
	}
	if r.Receipt != nil {
		put(KeyReceipt, r.Receipt)
	}
	put(KeyStatus, r.Status)
	if text := r.historyText(); text != "" {
		data[KeyHistory] = text
	}
	if text := answersText(r.Answers); text != "" {
		data[KeyAnswers] = text
	}
	for key, list := range map[string][]string{KeyRefused: r.Refused, KeyDeny: r.Deny, KeyStable: r.Stable, KeyVirtualServices: r.VirtualServices} {
		if len(list) > 0 {
			data[key] = strings.Join(list, " ")
		}
	}
	for key, set := range map[string]bool{KeyDenyMatchRoutes: r.DenyMatchRoutes, KeyDenyMirrors: r.DenyMirrors} {
		if set {
			data[key] = "true"
		}
	}
	if r.Message != "" {
		data[KeyMessage] = r.Message
	}
	return data
}

// historyText is the history as JSON, without the entries that do not fit;
// empty: there is none.
func (r Record) historyText() string {
	entries := coalesce(r.History)
	if rest, last, ok := cutLast(r.past); ok && len(entries) > 0 {
		if both, ok := last.and(entries[0]); ok {
			entries[0], r.past = both, rest
		}
	}
	r.History = entries
	text := boundedHistory(r.History)
	switch {
	case r.past == "":
		return text
	case text == "" && len(r.past) <= MaxHistoryBytes:
		return r.past
	case text != "" && strings.HasPrefix(r.past, "[{") && strings.HasSuffix(r.past, "}]"): // as guardian writes it
		if whole := r.past[:len(r.past)-1] + "," + text[1:]; len(whole) <= MaxHistoryBytes {
			return whole
		}
	}
	return boundedHistory(append(r.pastEntries(), r.History...))
}

// cutLast takes the newest entry off a history as guardian writes it. Within a text of
// JSON there are no quotes that do not end it, so what an entry begins with stands
// nowhere else.
func cutLast(past string) (rest string, last HistoryEntry, ok bool) {
	i := strings.LastIndex(past, `{"at":"`)
	if i < 1 || !strings.HasSuffix(past, "}]") || json.Unmarshal([]byte(past[i:len(past)-1]), &last) != nil {
		return past, last, false
	}
	if rest = strings.TrimSuffix(past[:i], ","); rest == "[" {
		return "", last, true
	}
	return rest + "]", last, true
}

// boundedHistory is entries as JSON, without those that do not fit; empty: there is
// none. The oldest go first, of remarks where these take more than a quarter: an alert
// that comes and goes must not push out in an hour what was rolled back, and why. The
// newest rollback stays whatever comes.
func boundedHistory(h []HistoryEntry) string {
	entries, size, remarks := make([][]byte, len(h)), 1, 0 // the brackets, less the comma that one entry does not have
	newest := -1
	for i, e := range h {
		b, err := json.Marshal(e)
		if err != nil {
			panic(fmt.Sprintf("marshal history entry: %v", err))
		}
		entries[i] = b
		if size += len(b) + 1; e.Event.isRemark() {
			remarks += len(b) + 1
		}
		if e.Event.IsRollback() && len(b) < MaxHistoryBytes/4 {
			newest = i
		}
	}
	oldest := map[bool]int{} // of remarks, and of the rest, that may be there still
	for size > MaxHistoryBytes {
		kind := remarks > MaxHistoryBytes/4 || remarks == size-1
		i := oldest[kind]
		oldest[kind]++
		if h[i].Event.isRemark() != kind || i == newest {
			continue
		}
		gone := len(entries[i]) + 1
		if entries[i], size = nil, size-gone; kind {
			remarks -= gone
		}
	}
	entries = slices.DeleteFunc(entries, func(b []byte) bool { return b == nil })
	if len(entries) == 0 {
		return ""
	}
	return "[" + string(bytes.Join(entries, []byte(","))) + "]"
}

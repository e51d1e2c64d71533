package rules

import (
	"maps"
	"time"
)

// Names of the alerts that guardian itself posts to Alertmanager, for people: what
// it has done, or cannot do. Each has a page in docs/runbooks. GuardianRolledBack is
// also a rule's, with the same labels, and so the same alert.
const (
	NoticeRolledBack = AlertRolledBack
	NoticeBlocked    = "GuardianBlocked"
	NoticeNotDone    = "GuardianNotDone"
	NoticeHeld       = "GuardianHeld"
)

// Notices lists them.
func Notices() []string {
	return []string{NoticeRolledBack, NoticeBlocked, NoticeNotDone, NoticeHeld}
}

// noticeSeverity is the label severity of each.
var noticeSeverity = map[string]string{
	NoticeRolledBack: "warning", NoticeBlocked: "critical", NoticeNotDone: "critical", NoticeHeld: "warning",
}

// NoticeLabels are the labels of a posted alert about a guard: its identity. own is
// what Prometheus adds to all that it sends.
func (o Options) NoticeLabels(name, guard string, own map[string]string) map[string]string {
	o = o.withDefaults()
	labels := maps.Clone(own)
	if labels == nil {
		labels = map[string]string{}
	}
	maps.Copy(labels, map[string]string{
		"alertname": name, LabelGuardian: "true", LabelInstance: o.Name, LabelGuard: guard, LabelAction: string(ActionNone),
		LabelNamespace: o.Namespace, LabelSeverity: noticeSeverity[name],
	})
	return labels
}

// Runbook is where the page of an alert is.
func (o Options) Runbook(alert string) string {
	return o.withDefaults().RunbookBase + alert + ".md"
}

// unlessPosted takes away the guards about which an Alertmanager has one of the
// notices from guardian itself, so that nobody is told twice.
func (b *builder) unlessPosted(notices ...string) string {
	if !b.Posts {
		return ""
	}
	return " unless on (" + keyLabels + ") " +
		b.byGuard(`guardian_notification_delivered{alert=~"`+alternatives(notices)+`",`+b.self()+`}`) + " == 1"
}

// untilPosted is how long a rule waits for guardian's own post: a scrape may fall
// between what was done and the post of it, and the next is at most a minute later.
func (b *builder) untilPosted() time.Duration {
	if !b.Posts {
		return 0
	}
	return 90 * time.Second
}

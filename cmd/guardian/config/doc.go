// Package config is guardian's configuration: the file, the environment and the
// defaults as one checked value, and what that value means to the packages that
// work by it. It never talks to a cluster, to Prometheus or to Alertmanager, and
// what it has handed out it never changes.
//
// [Load] and [Parse] decode (decode.go), put the environment over the file over
// the defaults (load.go), and check (validate.go); a [Watcher] does it again when
// the file changes. All that is wrong comes back at once, as [Problems]: each with
// its key, the value as written, and what would be right. Secrets are in none of
// them, nor in [Config.String].
//
// [Config.DecisionGuard] and [Config.RulesOptions] convert it (convert.go) for
// package decision and package rules.
//
// A field of a type in config.go is a key: its yaml tag is the name, its comment
// the description in docs/configuration-reference.md and in the chart's schema,
// both of which make golden writes.
package config

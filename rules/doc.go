// Package rules writes the Prometheus rules by which guardian notices a broken
// canary, and the Alertmanager route that carries their alerts. It never reads a
// cluster or a clock: the same options make the same rules.
//
// # How a signal decides
//
// Error rate and latency are both "share of bad requests above a limit", so one
// proportion test serves both. Of n canary requests within a window, k were
// bad; with limit p the alert needs k >= 5 and
//
//	D = k*ln(k/(n*p)) - k + n*p > 9
//
// which is Chernoff's bound: while the true share is at most p, chance alone
// brings one window there with probability below exp(-9). Windows are many, so
// the 9 is measured rather than derived: test/judge counts the healthy hours
// that end in a rollback (none of 4,800 at half the limit and below, 4 of 2,400
// at 90% of it). The test is asked in several
// windows at once, from one scrape (a total failure) to minutes (a small
// regression), and for each reporter (the canary's sidecar, the callers'
// proxies, an ambient waypoint) on its own.
//
// # How requests are counted
//
// An evaluation reads the proxies' series once, and records what each target has
// counted up to now, per version and reporter (…_target:…:sum). By how much that
// has grown since the last evaluation is one step (…:idelta, per guard, side and
// reporter), and a window is the sum of its steps: no extrapolation, so the counts
// are exact whatever the scrape interval is. An evaluation that Prometheus misses
// costs its own step and the next one, at both sides alike: what was scraped between
// the evaluation before and the one after it is not counted.
//
// A sum that was not there before counts in full (guardian_target:sums:new), if its
// target had been scraped successfully some evaluations ago (`up offset … == 1`), the
// sum has not been there since, and the rules were adding up the same series
// (guardian:sums:covered) and did not fail (each records a 0 of no target as well): then
// the requests are truly new. Not by the last evaluation alone, because a scrape's samples
// bear the time at which it began and are stored when it ends. There are nearly never any, so that growth costs one reading of the sums.
// Without that proof (Prometheus has just started, a scrape failed, a guard was
// added) it counts from its second sample on. So does a sum that has become less:
// a proxy has started anew, or has given up series of callers that are gone.
//
// # Two lanes
//
// With Options.FastLane the guarded workloads' own sidecars are scraped by a job
// of their own as well, often and for little (Rules.PodMonitor,
// Rules.ScrapeConfig). What they report is read from there, under names that begin
// with fastlane_. What callers and waypoints report, and the sidecars that the
// fast lane does not reach, is read as without it: an option that nobody scrapes
// for makes nothing blind. A version of which the fast lane sees fewer sidecars
// than the ordinary scrapes is read from those.
//
// # What makes a rollback a hold
//
// When stable is beyond the limit too, the canary must be proven worse than
// StableFactor times stable's share, where stable's share is the highest of the
// last three scrapes; and stable must have been scraped since the canary was
// first proven bad. Otherwise an outage of both would roll back by the accident
// of who is scraped first. Envoy brings its histograms up to date every 5 s only,
// whenever they are scraped, so a sidecar's latency counts as stable's answer from
// 5 s after the canary's: latency judged by sidecars alone takes that much longer
// than errors, on the fast lane too.
//
// # Worse than stable
//
// Below the limits a canary can be worse than stable all the same: a sequential test of
// both shares at the same time, off unless a guard asks for it (comparison.go).
//
// # Groups
//
// Limits and the mapping from workload to guard are recorded as constants
// (guardian:…:info, guardian:…:limit) in a slow group of their own, and joined.
// Most of what an evaluation costs is reading series, those of targets (`up`) among
// them: so there is one series of constants for each guard, and as many guards as
// an object holds share one reading. A plain selector reads five minutes of samples
// to find the last one, a hundred where they are recorded every 3 s: so what is
// recorded in an evaluation is read back as last_over_time(…[1ms]), windows are
// added up where they are judged, and only what is beyond a limit is recorded.
// So the costly expressions exist once for many guards, and nothing but the
// traffic signal and the restarts needs guardian itself to be scraped. A rule
// reads only what its own group recorded before it; the constants, the canary's
// share of a minute's requests, and what the dashboards need, are the exceptions,
// where a few seconds do not matter.
//
// # Objects
//
// The alerts about guardian itself (GuardianHeartbeat, GuardianDown, …) stand in an
// object of their own, which nothing of the guards can break. The guards are spread
// over others by the first bits of their names' hash, as many bits as it takes for
// each object to have at most 300 guards and 240 KiB: kubectl apply keeps a copy in an
// annotation, for which there are 256 KiB, and prometheus-operator refuses rule files
// of more than 512 KiB. A guard that comes or goes changes the object that it is in,
// and no other, unless that one has become too large and is split in two. Each object
// is complete by itself: its groups record under a guardian_shard of their own, read
// nothing of others, and are evaluated beside theirs.
package rules

//go:build race

package remediate

// sequences is how many TestPropertyInvariantsHold tries unless -rapid.checks
// says otherwise. The race detector makes each ten times dearer; make test runs
// the test without it as well.
const sequences = "50"

// weeks is how many guards TestASimulatedWeek lives through; without the race
// detector make test lives through more.
const weeks = 2

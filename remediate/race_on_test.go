//go:build race

package remediate

// sequences is how many TestPropertyInvariantsHold tries unless -rapid.checks
// says otherwise. The race detector makes each ten times dearer; make test runs
// the test without it as well.
const sequences = "50"

const weeks = 0 // make test lives through them without the race detector

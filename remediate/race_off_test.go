//go:build !race

package remediate

// sequences is how many TestPropertyInvariantsHold tries unless -rapid.checks
// says otherwise.
const sequences = "3000"

// weeks is how many guards TestASimulatedWeek lives through.
const weeks = 32

//go:build !race

package remediate

// sequences is how many TestPropertyInvariantsHold tries unless -rapid.checks
// says otherwise.
const sequences = "3000"

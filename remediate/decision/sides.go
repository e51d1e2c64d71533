package decision

// Sides names what runs behind a guard's two destinations, for those who look
// at its metrics.
type Sides struct {
	Stable, Canary Side
}

// Side is one destination as metrics know it.
type Side struct {
	Host      string            // fully qualified
	Service   string            // name of the Service
	Labels    map[string]string // the subset's labels; nil for a host of its own
	Workloads []string          // names of Deployments, Rollouts, StatefulSets, …, sorted
	Waiting   map[string]int64  // reason → containers that it keeps from starting
	Absent    string            // why there is no such destination; empty: there is, or stable's tells
}

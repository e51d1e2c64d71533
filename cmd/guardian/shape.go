package main

// shape begins what is printed for programs. Within a version keys are added, and
// none is renamed, removed, or given another meaning.
type shape struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// shapeVersion is of all that -o json prints. It is no API of a cluster.
const shapeVersion = "cli.canary-guardian.io/v1"

func shapeOf(kind string) shape { return shape{shapeVersion, kind} }

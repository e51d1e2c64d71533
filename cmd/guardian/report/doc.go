// Package report tells from the histories of guards how guardian has done: which
// releases it saw, what it rolled back or would have, how long that took and how it
// went on. It never asks a cluster, nor says of a rollback that it was right: people do.
package report

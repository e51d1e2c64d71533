// Package page shows where the guards of a namespace stand to people with a
// browser and without kubectl: all guards, and one with its weights over time and
// its history. It is read-only: what can be done is shown as the command that does
// it, for guardian lends nobody its rights, and it never writes anything.
package page

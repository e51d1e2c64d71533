// Package records reads and writes guards' records, ConfigMaps, and reads from the
// replicas' Leases whether guardian lives. It never decides about traffic, and
// touches no VirtualService.
package records

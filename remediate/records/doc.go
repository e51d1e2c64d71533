// Package records reads and writes guards' records, ConfigMaps, and reads from the
// replicas' Leases whether guardian runs. It never decides about traffic, and
// touches no VirtualService.
//
// guardian itself uses the codec ([Read], [Patch], [Histories]). A CLI uses [Client]:
// it reads, lists and follows records, writes requests into them, waits until the
// record shows what came of one, and withdraws it.
package records

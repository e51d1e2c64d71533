// Package mesh stands in for a service mesh where there is none: no Envoy and no istiod run here. It is enough of one
// to show and to measure what guardian does, and no more:
//
//   - it watches the real VirtualService and DestinationRule of one service, and takes a change over 100 ms later, which
//     is istiod's debounce and nearly all that a real istiod needs;
//   - two real HTTP servers on 127.0.0.1, one for each version, answer as they are told: with errors, slowly, or not at all;
//   - users send real HTTP requests at an even pace, each split by the weights and routed by the headers of the
//     VirtualService;
//   - each version's proxy and the users' proxy are scrape targets of their own, with Istio's metric names and labels, as
//     sidecars are; counters are always up to date, histograms every 5 s. What cannot be connected to is known at the
//     source alone, as destination_workload="unknown".
//
// What it leaves out: retries, mirrors, delegates, TCP and TLS routes, matches by anything but headers and paths, and
// connections that outlive a change of weights.
package mesh

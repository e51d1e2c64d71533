// Package virtualservice reads what an Istio VirtualService gives to a canary and
// works out how to rewrite it, as a JSON patch or as YAML. It never reads or writes
// a cluster, and knows nothing of guards, locks, alerts or Kubernetes' types.
//
// Read and Inspect tell what the canary gets; Rewrite sets a weight or takes
// everything from the canary, and remembers what it re-pointed (Change), so that
// it can be given back; the zero Options touch weights alone.
//
// # Which routes
//
// The split of a VirtualService are its routes that name both destinations, but
// for those that only testers take and that stay on one side. The weight that is
// recorded and shown, and that steps go by, is the split's. What a route is to it
// is decided by what the route matches:
//
//	route, naming both          all on the canary             all on stable                       something for each
//	of everybody                of the split, at its end      of the split, at its start          of the split
//	of testers, seen to split   of the split, at its end, if  of the split, at its start, if      of the split
//	                            everybody's is; else testers'  everybody's is; else testers'
//	any other of testers        testers': the canary's        testers': stable's, if the split    of the split from now on
//	                                                          has begun, or a route like it is
//	                                                          the canary's; else of the split
//
// Like it is a route that asks for the same fields of a request: a cookie for v1
// beside the cookie for v2. Where testers' routes are all that there is, in all of
// the guard's VirtualServices, those of the canary are the split at its end.
//
// A step sets the routes of the split that are not at their end, and those that
// are where there is no other. So a path that has gone ahead is not taken back.
// Testers' routes stay as they are.
//
// The brake looks at all that the canary gets: a canary of 0% with testers is
// shifting, and an alert rolls it back. A rollback leads testers' routes to stable
// as well, remembers what they were (Change), weights included, and they are that
// again after the unlock, or with the next step where there is no lock. The routes
// of the split stay at 0. Which of testers' routes have been seen to split is
// remembered (Status.Splits in the guard's record), for at the top they look like the others; at first
// sight of a canary that has all traffic, all do. It decides only there: testers
// that are the canary's alone while everybody's split is not at its end, or
// stable's alone once that has begun, stay on their side, whatever they did before.
package virtualservice

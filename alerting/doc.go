// Package alerting knows which alerts fire now. It receives them over HTTP,
// from Alertmanager's webhook and straight from Prometheus, lists them from
// either API, and answers questions about guards as plain values. It never decides what
// follows from an alert, and knows nothing of Kubernetes, Istio or rules: whoever wires it hands it
// a [Sink] for what arrives and a [GuardLister] for what is asked.
//
// The way of an alert:
//
//	Alertmanager ── POST /webhook ───────┐
//	                                     ├─ parse ─ Sink.Accept ─ 2xx, or 5xx
//	Prometheus ──── POST /api/v2/alerts ─┘             │
//	                                                   ▼
//	Alertmanager ◄─ GET /api/v2/alerts ── once a ──► Store ──► Firing(now)
//	                                      minute
//
// # Status codes
//
// The status code is the retry protocol. Alertmanager takes 2xx as done and
// stays silent until repeat_interval, retries 5xx and transport errors, and
// gives 4xx up at once (Retrier.Check in notify/util.go of Alertmanager). So:
//
//	2xx  Sink.Accept has returned nil: what follows is durably recorded
//	400  a body that cannot be understood, however often it is sent
//	401  wrong or missing credentials
//	413  a body over the limit (4 MiB)
//	500  a bug (a panic)
//	503  the sink failed or was too slow, the body came too slowly, or the
//	     credentials to compare with cannot be read just now
//
// 429 is never sent: it would be given up like any 4xx. What is given up with 400 or 413
// by a sender that has proved who it is, is asked of Alertmanager's API at once
// ([ServerOptions].List), not more often than every few seconds.
package alerting

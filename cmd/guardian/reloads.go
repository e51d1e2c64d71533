package main

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// reloads tells whether the configuration's file, as it stands, is the one that
// guardian runs on. A file that is refused changes nothing until the next start,
// which it fails: people have to know of it before. The metrics are those that
// Prometheus and Alertmanager have of their own files. Why a file was refused is in
// the log alone.
type reloads struct {
	successful, at prometheus.Gauge
	log            *slog.Logger
	now            func() time.Time
}

func newReloads(reg prometheus.Registerer, log *slog.Logger, now func() time.Time) *reloads {
	r := &reloads{log: log, now: now,
		successful: prometheus.NewGauge(prometheus.GaugeOpts{Name: "guardian_config_last_reload_successful",
			Help: "1 if the configuration's file was taken over when it was last read, 0 if it was refused and the configuration of before stays in force."}),
		at: prometheus.NewGauge(prometheus.GaugeOpts{Name: "guardian_config_last_reload_success_timestamp_seconds",
			Help: "When a configuration was last taken over, at the start or at a reload."}),
	}
	reg.MustRegister(r.successful, r.at)
	return r
}

// taken is told of each file that guardian runs on, or would run on unchanged.
func (r *reloads) taken() {
	r.successful.Set(1)
	r.at.Set(float64(r.now().UnixNano()) / 1e9)
}

// refused is told why a file was not taken over.
func (r *reloads) refused(err error) {
	r.successful.Set(0)
	r.log.Error("invalid configuration ignored, keeping the previous one", "err", err)
}

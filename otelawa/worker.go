package otelawa

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/awa-pg/awa/driver"
)

// ObserveWorker exports what [driver.Worker.Stats] counts, by messaging.destination.name, the queue. It returns what
// ends that when it is unregistered, or an error when the SDK has refused something. The metrics are in no convention:
//
//	awa.worker.claimed  counter          attempts that the worker has claimed
//	awa.worker.jobs     counter          attempts that have ended, by awa.job.outcome: completed, failed, snoozed,
//	                                     discarded, cancelled, unknown_kind, or stale, whose answer was refused
//	awa.worker.running  up-down counter  attempts whose handlers run now
//
// Several workers that are observed by one MeterProvider add up, queue by queue.
func ObserveWorker(worker *driver.Worker, cfg Config) (metric.Registration, error) {
	meter := cfg.WithDefaults().meter()
	claimed, err := meter.Int64ObservableCounter("awa.worker.claimed", metric.WithUnit("{attempt}"),
		metric.WithDescription("Number of attempts that the worker has claimed."))
	if err != nil {
		return nil, err
	}
	jobs, err := meter.Int64ObservableCounter("awa.worker.jobs", metric.WithUnit("{attempt}"),
		metric.WithDescription("Number of attempts that have ended."))
	if err != nil {
		return nil, err
	}
	running, err := meter.Int64ObservableUpDownCounter("awa.worker.running", metric.WithUnit("{attempt}"),
		metric.WithDescription("Number of attempts whose handlers run now."))
	if err != nil {
		return nil, err
	}
	return meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		for _, stats := range worker.Stats() {
			queue := []attribute.KeyValue{system, semconv.MessagingDestinationName(stats.Queue)}
			o.ObserveInt64(claimed, stats.Claimed, metric.WithAttributes(queue...))
			o.ObserveInt64(running, stats.Running, metric.WithAttributes(queue...))
			for outcome, n := range map[string]int64{
				"completed":    stats.Completed,
				"failed":       stats.Failed,
				"snoozed":      stats.Snoozed,
				"discarded":    stats.Discarded,
				"cancelled":    stats.Cancelled,
				"unknown_kind": stats.UnknownKind,
				"stale":        stats.Stale,
			} {
				o.ObserveInt64(jobs, n, metric.WithAttributes(queue...), metric.WithAttributes(keyOutcome.String(outcome)))
			}
		}
		return nil
	}, claimed, jobs, running)
}

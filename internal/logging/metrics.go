package logging

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Why a line was lost: the label reason of relay_log_lines_lost_total.
var (
	lostFull   = metric.WithAttributes(attribute.String("reason", "queue_full"))
	lostFailed = metric.WithAttributes(attribute.String("reason", "write_failed"))
)

// Observe exports how many lines are lost, by reason, with meter.
func (l *Log) Observe(meter metric.Meter) error {
	_, err := meter.Int64ObservableCounter("relay_log_lines_lost",
		metric.WithDescription("Log lines that are not in the log, by reason."),
		metric.WithInt64Callback(func(_ context.Context, o metric.Int64Observer) error {
			full, failed := l.Lost()
			o.Observe(int64(full), lostFull)
			o.Observe(int64(failed), lostFailed)
			return nil
		}))
	return err
}

// Package instrument makes metrics whose values are plain integers: an event costs
// one atomic addition, and OpenTelemetry reads the integers only at a collection.
// So every label value is there, at zero, from the first collection on.
package instrument

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/metric/noop"
)

// Table lists the instruments of one owner. Its methods are called one after the
// other, and last [Table.Register]. F holds what the owner is asked for at each
// collection, all of it together.
type Table[F any] struct {
	meter       metric.Meter
	observables []metric.Observable
	gauges      map[string]metric.Int64ObservableGauge
	series      []func(metric.Observer, *F)
	err         error // the first one
}

// New returns an empty table. A nil meter counts and exports nothing.
func New[F any](meter metric.Meter) *Table[F] {
	if meter == nil {
		meter = noop.Meter{}
	}
	return &Table[F]{meter: meter, gauges: make(map[string]metric.Int64ObservableGauge)}
}

// Register starts to answer collections, with what figures returns. stop ends it,
// and may be called more than once. err is the first of any method.
func (t *Table[F]) Register(figures func() F) (stop func() error, err error) {
	if t.err != nil {
		return nil, t.err
	}
	r, err := t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		f := figures()
		for _, observe := range t.series {
			observe(o, &f)
		}
		return nil
	}, t.observables...)
	if err != nil {
		return nil, fmt.Errorf("register metrics: %w", err)
	}
	return func() error {
		if err := r.Unregister(); err != nil {
			return fmt.Errorf("unregister metrics: %w", err)
		}
		return nil
	}, nil
}

// Counter adds a counter without labels.
func (t *Table[F]) Counter(name, unit, help string, n *atomic.Int64) {
	c, err := t.meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(help))
	t.made(name, c, err)
	t.add(c, n.Load)
}

// Counters adds a counter with a label, which has one value for each of n.
func (t *Table[F]) Counters(name, label, help string, n []atomic.Int64, values []string) {
	c, err := t.meter.Int64ObservableCounter(name, metric.WithDescription(help))
	t.made(name, c, err)
	for i := range n {
		t.add(c, n[i].Load, attribute.String(label, values[i]))
	}
}

// UpDowns is Counters for figures that also fall.
func (t *Table[F]) UpDowns(name, label, help string, n []atomic.Int64, values []string) {
	c, err := t.meter.Int64ObservableUpDownCounter(name, metric.WithDescription(help))
	t.made(name, c, err)
	for i := range n {
		t.add(c, n[i].Load, attribute.String(label, values[i]))
	}
}

// Seconds adds a counter of time, of which n has nanoseconds.
func (t *Table[F]) Seconds(name, help string, n *atomic.Int64) {
	c, err := t.meter.Float64ObservableCounter(name, metric.WithUnit("s"), metric.WithDescription(help))
	t.made(name, c, err)
	t.series = append(t.series, func(o metric.Observer, _ *F) { o.ObserveFloat64(c, time.Duration(n.Load()).Seconds()) })
}

// Gauge adds a gauge. The same name again, with other values of the labels, adds
// one more series to it.
func (t *Table[F]) Gauge(name, unit, help string, value func(*F) int, labels ...attribute.KeyValue) {
	with := metric.WithAttributes(labels...)
	t.Gauges(name, unit, help, func(f *F, each func(int, ...metric.ObserveOption)) { each(value(f), with) })
}

// Gauges adds a gauge whose series are known only at a collection: read calls each
// for every one of them.
func (t *Table[F]) Gauges(name, unit, help string, read func(f *F, each func(int, ...metric.ObserveOption))) {
	g := t.gauges[name]
	if g == nil {
		var err error
		g, err = t.meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(help))
		t.made(name, g, err)
		t.gauges[name] = g
	}
	t.series = append(t.series, func(o metric.Observer, f *F) {
		read(f, func(v int, with ...metric.ObserveOption) { o.ObserveInt64(g, int64(v), with...) })
	})
}

// Histogram adds a histogram. It appears with its first value.
func (t *Table[F]) Histogram(name, unit, help string, bounds ...float64) metric.Float64Histogram {
	h, err := t.meter.Float64Histogram(name, metric.WithUnit(unit), metric.WithDescription(help), metric.WithExplicitBucketBoundaries(bounds...))
	t.failed(name, err)
	return h
}

func (t *Table[F]) add(c metric.Int64Observable, value func() int64, labels ...attribute.KeyValue) {
	with := metric.WithAttributes(labels...)
	t.series = append(t.series, func(o metric.Observer, _ *F) { o.ObserveInt64(c, value(), with) })
}

func (t *Table[F]) made(name string, o metric.Observable, err error) {
	t.failed(name, err)
	t.observables = append(t.observables, o)
}

func (t *Table[F]) failed(name string, err error) {
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("make metric %s: %w", name, err)
	}
}

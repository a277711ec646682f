package otelawa

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// metadata is that of a job, as a propagator sees it: an object.
type metadata map[string]json.RawMessage

// encodeMetadata returns a copy of what a caller gives as metadata, empty for nil.
func encodeMetadata(v any) (metadata, error) {
	encoded, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	var m metadata
	err = json.Unmarshal(encoded, &m)
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return nil,
			fmt.Errorf("metadata must be a JSON object, so that the context of the trace can be put into it, not a JSON %s",
				wrong.Value)
	}
	if m == nil {
		m = metadata{}
	}
	return m, err
}

// decodeMetadata returns the metadata of a job, which may be anything: what is no object is as good as none.
func decodeMetadata(encoded json.RawMessage) metadata {
	var m metadata
	_ = json.Unmarshal(encoded, &m)
	return m
}

// Get returns the string of that key, "" when there is none.
func (m metadata) Get(key string) string {
	var value string
	_ = json.Unmarshal(m[key], &value)
	return value
}

// Set sets a key to a string.
func (m metadata) Set(key, value string) { m[key], _ = json.Marshal(value) }

// Keys returns all keys.
func (m metadata) Keys() []string { return slices.Collect(maps.Keys(m)) }

// hasContext says whether there is something of that propagator in it, valid or not.
func (m metadata) hasContext(propagator propagation.TextMapPropagator) bool {
	return slices.ContainsFunc(propagator.Fields(), func(field string) bool { return m[field] != nil })
}

// creationContext returns the context of the span in which a job was enqueued; an invalid one when there is none.
func (m metadata) creationContext(propagator propagation.TextMapPropagator) trace.SpanContext {
	return trace.SpanContextFromContext(propagator.Extract(context.Background(), m))
}

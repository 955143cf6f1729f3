"""Tracing: where a student leaves its teacher, block by block and step by step."""

from dpqlab.tracing.bundled import bundled_traces, load_trace
from dpqlab.tracing.collect import TraceBuilder, trace
from dpqlab.tracing.compare import EDGES
from dpqlab.tracing.config import Pair, Sampler, TraceConfig, dit_sampler, load_pair
from dpqlab.tracing.record import Provenance, Trace
from dpqlab.tracing.steps import MEASURES, Measure, TraceStep, trace_steps

__all__ = [
    "EDGES",
    "MEASURES",
    "Measure",
    "Pair",
    "Provenance",
    "Sampler",
    "Trace",
    "TraceBuilder",
    "TraceConfig",
    "TraceStep",
    "bundled_traces",
    "dit_sampler",
    "load_pair",
    "load_trace",
    "trace",
    "trace_steps",
]

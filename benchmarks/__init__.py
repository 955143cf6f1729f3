"""Benchmark suites, and the records from which the tables of README and docs are generated.

Each suite is a module run as ``python -m benchmarks.<suite>``; it appends its records to
``benchmarks/results/<suite>.jsonl`` through :mod:`benchmarks.record`. Nothing edits a record: the
latest line of a row is the one that counts.
"""

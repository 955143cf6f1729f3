"""Jobs that survive: kills, signals, full disks, little memory, company, and foreign leftovers.

``python -m benchmarks.survival`` puts every job through all of it and writes
``results/reliability-jobs.jsonl``; the tests run parts of it.
"""

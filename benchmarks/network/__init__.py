"""What dpqlab asks of a network: nothing. Run by ``python -m benchmarks.network``."""

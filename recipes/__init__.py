"""How every bundled asset was made; each module runs with `python -m recipes.<name>`."""

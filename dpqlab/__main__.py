"""``python -m dpqlab`` is the ``dpqlab`` command."""

from __future__ import annotations

import sys

from dpqlab.cli import main

if __name__ == "__main__":
    sys.exit(main())

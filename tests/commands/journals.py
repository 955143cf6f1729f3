"""Runs that are stopped once they have written some entries of their journal."""

from __future__ import annotations

import pytest

from dpqlab.checkpoint.journal import Journal


def stop_after(patch: pytest.MonkeyPatch, entries: int) -> None:
    """Press Ctrl-C, so to say, as soon as some entries are written."""
    write, left = Journal.write, [entries]

    def stopping(self: Journal, *given: object) -> None:
        write(self, *given)
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt

    patch.setattr(Journal, "write", stopping)

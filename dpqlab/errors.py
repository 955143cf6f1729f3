"""The errors dpqlab raises on purpose.

Every message says what was wrong, what was found, what was expected, and what to do about it. Catch
:class:`DPQError` to catch them all; anything else that escapes is a bug in dpqlab.
"""

from __future__ import annotations


class DPQError(Exception):
    """Base of every error that dpqlab raises on purpose."""


class ShapeError(DPQError, ValueError):
    """A tensor has a shape that the operation cannot work with."""


class ConfigError(DPQError, ValueError):
    """A setting, name or combination of settings is not possible."""


class CheckpointError(DPQError):
    """A file or folder is missing, damaged, foreign, or would not survive a round trip."""


class BackendError(DPQError, RuntimeError):
    """A compute backend was asked for that this machine cannot offer."""

"""What computes here, and why: the backends of this machine and the rules that apply on it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dpqlab.kernels.dispatch import VARIABLE, Backend, backends
from dpqlab.kernels.linears import RULES, Rule


@dataclass(frozen=True, kw_only=True)
class RuleHere:
    """One line of the table of rules, and whether it applies on this machine.

    Attributes
    ----------
    rule
        See :class:`dpqlab.kernels.linears.Rule`.
    refusal
        Why it is passed over here; None where it is not.
    """

    rule: Rule
    refusal: str | None

    @property
    def rows(self) -> str:
        """Say for which M it is, in words."""
        most = self.rule.most_rows
        return "any M" if math.isinf(most) else f"M up to {most:g}"

    @property
    def conditions(self) -> str:
        """Say what else must hold, in words; empty where nothing must."""
        rule = self.rule
        said = [
            f"d {' or '.join(map(str, rule.lengths))}" if rule.lengths else "",
            "" if math.isinf(rule.most_k) else f"k up to {rule.most_k:g}",
            "" if math.isinf(rule.most_words) else f"k up to {rule.most_words:g} x out",
            f"pool from {rule.least_pool >> 10} KB" if rule.least_pool else "",
            "16-bit x and codewords" if rule.halves else "",
        ]
        return ", ".join(filter(None, said))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "device": self.rule.device or "any",
            "rows": self.rows,
            "conditions": self.conditions,
            "method": self.rule.method,
            "backend": self.rule.backend,
            "why": self.rule.why,
            "applies": self.refusal is None,
            "refusal": self.refusal,
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class Overview:
    """The backends of a machine and the table of rules for products with compressed weights.

    Iterating gives the backends; ``print`` shows everything.

    Attributes
    ----------
    backends
        The preferred first.
    rules
        Read from top to bottom: the first that fits a problem and applies here computes it.
    wanted
        What ``DPQLAB_BACKEND`` asks for, or None.
    """

    backends: tuple[Backend, ...]
    rules: tuple[RuleHere, ...]
    wanted: str | None

    def __iter__(self) -> Iterator[Backend]:
        """Iterate over the backends."""
        return iter(self.backends)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {
            "backends": [
                {"name": b.name, "available": b.available, "reason": b.reason}
                for b in self.backends
            ],
            "rules": [here.to_dict() for here in self.rules],
            "wanted": self.wanted,
        }

    def __repr__(self) -> str:
        """Show the tables."""
        return str(self)

    def __str__(self) -> str:
        """Lay everything out as text."""
        known = [(b.name, "yes" if b.available else "no", b.reason) for b in self.backends]
        lines = _aligned([("backend", "here", "why"), *known])
        rules = [
            (
                f"{h.rule.backend} {h.rule.method}",
                h.rule.device or "any device",
                ", ".join(filter(None, (h.rows, h.conditions))),
                "yes" if h.refusal is None else "no",
                h.rule.why if h.refusal is None else h.refusal,
            )
            for h in self.rules
        ]
        lines += ["", *_aligned([("product by", "on", "for", "here", "why"), *rules])]
        if self.wanted is not None:
            lines += ["", f"{VARIABLE}={self.wanted}: other backends' rules are passed over"]
        return "\n".join(lines)


def overview(offered: Sequence[Backend] | None = None, wanted: str | None = None) -> Overview:
    """Describe a machine.

    Parameters
    ----------
    offered
        Its backends; None: those of this one.
    wanted
        The backend that is asked for; None: what ``DPQLAB_BACKEND`` says.
    """
    offered = backends() if offered is None else offered
    wanted = wanted or os.environ.get(VARIABLE) or None
    by_name = {backend.name: backend for backend in offered}
    rules = [
        RuleHere(rule=rule, refusal=_refusal(rule, by_name.get(rule.backend), wanted))
        for rule in RULES
    ]
    return Overview(backends=tuple(offered), rules=tuple(rules), wanted=wanted)


def _refusal(rule: Rule, backend: Backend | None, wanted: str | None) -> str | None:
    if backend is None:
        return f"there is no backend {rule.backend}"
    if not backend.available:
        return backend.reason
    if wanted not in (None, rule.backend):
        return f"{VARIABLE}={wanted}"
    return None


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align all columns but the last."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]

"""What the importance view says: of the codeword that was clicked, of the marked, of the race."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dpqlab.core import Measure
from dpqlab.studies.codeword_use import CodewordUse
from dpqlab.studies.codewords import MEASURES, CodewordStudy
from dpqlab.studies.removals import Removal
from dpqlab.viz.importance import MEASURE_NAMES
from dpqlab.widgets.importance_controls import MANNERS


def use_words(study: CodewordStudy, use: CodewordUse) -> str:
    """Say what a codeword is, where it is used, and what it is worth."""
    values = ", ".join(f"{value:.3f}" for value in use.values)
    ranks = ", ".join(f"{use.rank[m]:,} by {MEASURE_NAMES[m]}" for m in MEASURES)
    where = "position" if study.codec.scope == "position" else "scope"
    blocks = len(set(use.blocks.tolist()))
    words = (
        f"Codeword {use.entry} = ({values}), of {where} {use.scope}, is used by "
        f"{len(use.rows)} sub-vectors in {blocks} of {len(study.names)} layers. Of "
        f"{len(study.scope):,} codewords its rank is {ranks}."
    )
    if not use.neighbours:
        return words
    return f"{words} Its nearest neighbour, {use.neighbours[0]}, is {use.distances[0]:.4f} away."


def marked_words(gone: Tensor, here: Tensor, measure: Measure) -> str:
    """Say how many codewords are marked as removed.

    Parameters
    ----------
    gone, here
        Which codewords of the pool are marked, and which are on screen, bool (P,).
    measure
        That calls them least important.
    """
    return (
        f"Crosses: of the {int(gone.sum()):,} that {MEASURE_NAMES[measure]} calls least "
        f"important in the whole pool, {int(gone[here].sum())} of the {int(here.sum())} here."
    )


def found_words(removals: Sequence[Removal], kind: str, share: float) -> str:
    """Say who wins, at the measured share that is nearest to ``share``.

    Parameters
    ----------
    removals
        Those of the pool that were measured.
    kind
        Of its layers.
    share
        Of codewords that are removed.
    """
    if not removals:
        return f"No removals of {kind} are on record: press Measure."
    nearest = min({removal.share for removal in removals}, key=lambda s: abs(s - share))
    words: list[str] = []
    for manner in MANNERS:
        mine = [r for r in removals if r.manner == manner and r.share == nearest]
        ranked = sorted(mine, key=lambda r: r.output_error)
        if ranked:
            said = ", ".join(f"{MEASURE_NAMES[r.measure]} {r.output_error:.4f}" for r in ranked)
            words.append(f"{manner} {said}")
    return f"Held-out output error with {nearest:.0%} removed: {'; '.join(words)}."

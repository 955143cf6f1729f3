"""Ready-made plans by name. Their "bits" are nominal: the ledger has the true ones."""

from __future__ import annotations

from collections.abc import Mapping

from dpqlab.core import CodebookCodec, Codec, PoolConfig, ScalarCodec
from dpqlab.errors import ConfigError
from dpqlab.nn.plan import Coding, Plan

QUARTER = PoolConfig(budget=0.25, measure="usage", merge=0.05, form="ragged")
"""The pool of arXiv 2411.12306: by usage, within a quarter of the bits of the codes."""

ADALN = "norm1.linear"
"""The layers that turn timestep and class into scales and shifts: a third of a DiT's weights."""


def _pq(d: int, k: int) -> CodebookCodec:
    return CodebookCodec(d=d, k=k, scope="position", row_scale=True)


def _vq(d: int, k: int) -> CodebookCodec:
    return CodebookCodec(d=d, k=k, scope="layer")


def _dpq(d: int) -> Coding:
    """The paper's codec: 256 codewords a column position, pruned to the budget.

    The paper's layers have 1152 rows and more; at width 384 most have 384, 1.5 to a codeword. So
    the same position of the same layer shares its codebook across all blocks here: with 8 blocks
    there are 12 rows to a codeword, as DiT-XL/2's attention has.
    """
    return Coding(codec=CodebookCodec(d=d, k=256, scope="position", across="kind"), pool=QUARTER)


def _shared(d: int, k: int, *, row_scale: bool = True) -> CodebookCodec:
    """One codebook for the same layer of all blocks: nearly all bits are left to the codes."""
    return CodebookCodec(d=d, k=k, scope="layer", across="kind", row_scale=row_scale)


_PRESETS: dict[str, Codec | Coding | Mapping[str, Codec | Coding | None]] = {
    "rtn-2bit": ScalarCodec(bits=2, group_size=384),
    "rtn-1bit": ScalarCodec(bits=1, group_size=192),
    "vq-2bit": _vq(d=4, k=256),
    "vq-1bit": _vq(d=8, k=256),
    "pq-2bit": _pq(d=4, k=32),
    "pq-1bit": _pq(d=6, k=16),
    "dpq-4bit": _dpq(d=2),
    "dpq-3bit": _dpq(d=3),
    "dpq-2bit": _dpq(d=4),
    "dpq-1bit": _dpq(d=8),
    "best-2bit": {ADALN: _shared(d=4, k=32), "*": _shared(d=4, k=512)},
    "best-1.25bit": {ADALN: _shared(d=8, k=128), "*": _shared(d=8, k=1024)},
    "best-1bit": {ADALN: _shared(d=8, k=64), "*": _shared(d=8, k=512)},
}


def presets() -> dict[str, Plan]:
    """Return the ready-made plans by name."""
    return {name: Plan.for_blocks(codec, name=name) for name, codec in _PRESETS.items()}


def preset(name: str) -> Plan:
    """Return one of :func:`presets`.

    Raises
    ------
    ConfigError
        If there is no preset of that name.
    """
    try:
        return presets()[name]
    except KeyError:
        raise ConfigError(
            f"no preset is called {name!r}: expected one of {', '.join(_PRESETS)}"
        ) from None

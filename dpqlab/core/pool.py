"""The pool: the distinct codewords of a layer or of several, and who may use which.

In the ragged form every scope owns a run of the pool, and nothing has to say so. In the indexed
form all scopes pick their codewords from one set, and a table says which: a codeword that serves
many scopes is stored once, a table entry costs ``ceil(log2 P)`` bits.
"""

# torch leaves tolist untyped
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import torch

from dpqlab.core.packing import code_bits, packed_size
from dpqlab.errors import ConfigError, ShapeError

Measure = Literal["usage", "weighted", "removal"]
PoolForm = Literal["ragged", "indexed", "auto"]
OFFSET_BITS = 32  # of each codebook's size, where sizes differ and have to be stored


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """How codebooks are squeezed after k-means: see :func:`dpqlab.core.pruning.prune`.

    Attributes
    ----------
    budget
        Most bits that pool and tables may take, as a share of the bits of the codes, as the codes
        are after pruning. arXiv 2411.12306 uses 1/4.
    measure
        What makes a codeword important (see :func:`dpqlab.core.importance.importance`).
    merge
        Two codewords ``a``, ``b`` of one scope (indexed form: of the pool) are redundant if
        ``|a - b|**2 <= merge * mean(|c|**2)``, the mean over all codewords of the pool; 0 merges
        equal ones only. arXiv 2411.12306 gives 0.05, and no metric.
    form
        ``"ragged"``, ``"indexed"``, or ``"auto"``: both are made, and the one with the lower
        weighted error within the budget is kept.
    refits
        Rounds of choosing codes again and refitting codewords at every point.
    """

    budget: float = 0.25
    measure: Measure = "usage"
    merge: float = 0.05
    form: PoolForm = "auto"
    refits: int = 3

    def __post_init__(self) -> None:
        if not 0.0 < self.budget < float("inf"):
            raise ConfigError(f"budget must be a positive share of the codes: got {self.budget}")
        if not 0.0 <= self.merge < float("inf"):
            raise ConfigError(f"merge must not be negative: got {self.merge}")
        if self.refits < 0:
            raise ConfigError(f"refits must not be negative: got {self.refits}")
        choices = {"measure": get_args(Measure), "form": get_args(PoolForm)}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(
                    f"unknown {name}: got {getattr(self, name)!r}, "
                    f"expected one of {', '.join(known)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pool:
    """Distinct codewords, and which of them each scope may use.

    Attributes
    ----------
    entries
        Distinct codewords, float16 of shape (P, d). Float32 is accepted too, for training.
    base
        int64 of shape (S + 1,): scope ``s`` has ``k[s] = base[s + 1] - base[s]`` codes.
    table
        int64 of shape (T,), T = base[-1]: code ``c`` of scope ``s`` stands for entry
        ``table[base[s] + c]``. None is the ragged form: entry ``base[s] + c``, and T = P.
    """

    entries: torch.Tensor
    base: torch.Tensor
    table: torch.Tensor | None = None

    def __post_init__(self) -> None:
        flat = self.table is None or self.table.ndim == 1
        if not flat or self.entries.ndim != 2 or self.base.ndim != 1 or self.base.numel() < 2:
            table = None if self.table is None else tuple(self.table.shape)
            raise ShapeError(
                "a pool has entries (P, d), base (S + 1,) and a table (T,) or none: "
                f"got {tuple(self.entries.shape)}, {tuple(self.base.shape)} and {table}"
            )
        runs = self.base.tolist()
        rows = len(self.entries) if self.table is None else len(self.table)
        if runs[0] != 0 or runs[-1] != rows or min(self.sizes) < 1:
            of = "entries" if self.table is None else "rows of the table"
            raise ShapeError(
                f"base must rise from 0 to the {rows} {of}: got {runs[:3]}..{runs[-1]}"
            )
        if self.table is not None:
            low, high = (int(v) for v in torch.aminmax(self.table))
            if low < 0 or high >= len(self.entries):
                raise ShapeError(
                    f"a table lists entries from 0 to {len(self.entries) - 1}: got {low}..{high}"
                )

    @property
    def d(self) -> int:
        """Values in a codeword."""
        return self.entries.shape[1]

    @property
    def sizes(self) -> list[int]:
        """Codes of each scope, ``k[s]``."""
        return self.base.diff().tolist()

    @property
    def ragged(self) -> bool:
        """Whether the scopes have codebooks of different sizes."""
        return len(set(self.sizes)) > 1

    @property
    def indexed(self) -> bool:
        """Whether a table says which entries a scope uses."""
        return self.table is not None

    @property
    def code_bits(self) -> int:
        """Bits of a code: those of the largest codebook."""
        return code_bits(max(self.sizes))

    @property
    def entry_bits(self) -> int:
        """Bits of one entry of a table: ``ceil(log2 P)``."""
        return code_bits(len(self.entries))

    @property
    def table_bits(self) -> int:
        """Bits that it takes to find a codeword: sizes that differ, and the packed table."""
        sizes = OFFSET_BITS * (len(self.base) - 1) if self.ragged else 0
        if self.table is None:
            return sizes
        return sizes + 8 * packed_size(len(self.table), self.entry_bits)

    @property
    def codewords(self) -> torch.Tensor:
        """Codewords of all scopes one after the other, (T, d); ``entries`` where no table is."""
        return self.entries if self.table is None else self.entries[self.table]

    def entry_indices(self, codes: torch.Tensor, scope_of: torch.Tensor) -> torch.Tensor:
        """Return the pool entry of every sub-vector, int64 (out, m).

        Parameters
        ----------
        codes
            int64 of shape (out, m).
        scope_of
            int64 of shape (m,): the scope of every position.
        """
        index = self.base[scope_of] + codes
        return index if self.table is None else self.table[index]

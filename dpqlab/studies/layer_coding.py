"""One layer coded before your eyes: what its codes rebuild, what is stored, and what is lost."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dpqlab.core import CodebookCodec, Pool, decode, encode, fit_pool, relative_error
from dpqlab.core.codecs import RESERVOIR, row_rms
from dpqlab.core.ledger import ledger_of_encoded
from dpqlab.core.subvectors import split
from dpqlab.errors import ConfigError
from dpqlab.kernels.dispatch import best_assigner, best_clusterer
from dpqlab.studies.layer_weights import LayerWeights

PARTS = ("codes", "table", "pool", "scale", "bias")
BIAS_BITS = 16
SEED = 0
ENOUGH = 65_536  # sub-vectors for one codebook that layers share: more change the error by < 1 %


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerCoding:
    """A weight and what a codec makes of it.

    Attributes
    ----------
    model, block, kind
        Which layer.
    codec
        The codec.
    weight, rebuilt
        float32 (out, in).
    codes
        int64 (out, m).
    pool
        The codewords.
    scope_of
        int64 (m,): the codebook of every position.
    scale
        float32 (out,): what the codewords of a row are multiplied by; ones without row scales.
    norm
        float32 (out,): what a row was divided by before its nearest codewords were looked for.
    bits
        Stored bits of the layer by part, see ``PARTS``. Of a pool that is shared, its share.
    relative_error
        ``|W - W'|**2 / |W|**2``.
    sharers
        Layers that use the pool.
    """

    model: str
    block: int
    kind: str
    codec: CodebookCodec
    weight: Tensor = field(repr=False)
    rebuilt: Tensor = field(repr=False)
    codes: Tensor = field(repr=False)
    pool: Pool = field(repr=False)
    scope_of: Tensor = field(repr=False)
    scale: Tensor = field(repr=False)
    norm: Tensor = field(repr=False)
    bits: dict[str, float]
    relative_error: float
    sharers: int

    @property
    def true_bits(self) -> float:
        """All stored bits over the number of weights."""
        return sum(self.bits.values()) / self.weight.numel()

    @property
    def positions(self) -> int:
        """Sub-vectors in a row."""
        return self.codes.shape[1]

    def codebook(self, position: int) -> Tensor:
        """Return the codewords that a position may use, float32 (k, d)."""
        self._check(0, position)
        scope = int(self.scope_of[position])
        first, last = int(self.pool.base[scope]), int(self.pool.base[scope + 1])
        return self.pool.codewords[first:last].float()

    def subvector(self, row: int, position: int) -> Tensor:
        """Return the weights behind a code, float32 (d,); zeros fill up the last of a row."""
        self._check(row, position)
        return split(self.weight[row : row + 1], self.codec.d)[0, position]

    def replacement(self, row: int, position: int) -> Tensor:
        """Return what the code stands for in its row, float32 (d,)."""
        self._check(row, position)
        return self.codebook(position)[int(self.codes[row, position])] * self.scale[row]

    def distances(self, row: int, position: int) -> Tensor:
        """Return the squared distances to all codewords as the search saw them, float32 (k,).

        Rows with a scale are searched for at RMS 1.
        """
        point = self.subvector(row, position) / self.norm[row].clamp(min=1e-30)
        return (self.codebook(position) - point).square().sum(1)

    def _check(self, row: int, position: int) -> None:
        rows, positions = self.codes.shape
        if not (0 <= row < rows and 0 <= position < positions):
            raise ConfigError(
                f"no sub-vector {position} in row {row}: {self.kind} has rows 0 to {rows - 1} "
                f"and, with d={self.codec.d}, positions 0 to {positions - 1}"
            )


def code_layer(
    layers: LayerWeights, block: int, kind: str, codec: CodebookCodec, *, seed: int = SEED
) -> LayerCoding:
    """Fit codebooks and code one layer.

    Parameters
    ----------
    layers
        The model's matrices.
    block, kind
        The layer.
    codec
        With ``across="kind"`` codebooks are fitted on this layer of all blocks.
    seed
        Of k-means.

    Raises
    ------
    ConfigError
        If there is no such layer, or layers of different kinds would share codebooks.
    """
    layers.check(block, kind)
    if codec.across == "model":
        raise ConfigError("one kind of layer is coded here: use across='layer' or 'kind'")
    blocks = range(layers.blocks) if codec.across == "kind" else (block,)
    weights = [layers.weight(one, kind) for one in blocks]
    pool = fit_pool(
        weights,
        codec,
        generator=torch.Generator().manual_seed(seed),
        clusterer=best_clusterer(),
        reservoir=max(ENOUGH, 64 * codec.k) if codec.scope == "layer" else RESERVOIR,
    )
    weight = weights[list(blocks).index(block)]
    encoded = encode(weight, codec, pool, assigner=best_assigner())
    rebuilt = decode(encoded)
    bias = BIAS_BITS * len(weight) if layers.has_bias(block, kind) else 0
    ledger = ledger_of_encoded(kind, encoded, bias)
    shares = {name: len(weights) if name in ("pool", "table") else 1 for name in PARTS}
    ones = torch.ones(len(weight))
    return LayerCoding(
        model=layers.model,
        block=block,
        kind=kind,
        codec=codec,
        weight=weight,
        rebuilt=rebuilt,
        codes=encoded.codes,
        pool=pool,
        scope_of=encoded.scope_of,
        scale=ones if encoded.scale is None else encoded.scale.float(),
        norm=row_rms(weight).float() if codec.row_scale else ones,
        bits={name: getattr(ledger, name) / shares[name] for name in PARTS},
        relative_error=relative_error(weight, rebuilt),
        sharers=len(weights),
    )

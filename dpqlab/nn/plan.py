"""What to compress, and how: rules from layer types and names to codecs, and the presets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

import torch
from torch import nn

from dpqlab.core import CodebookCodec, Codec, PoolConfig
from dpqlab.errors import ConfigError
from dpqlab.nn.packed import PackedLinear

FloatName = Literal["bfloat16", "float16", "float32"]
FLOAT_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in get_args(FloatName)}

EMBEDDER_REASON = "embedder: one tied copy, outside the blocks' budget"
OUTSIDE_REASON = "outside the transformer blocks"


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How layers are coded: a codec, and how its codebooks are squeezed after k-means.

    Attributes
    ----------
    codec
        The codec.
    pool
        The pool's budget and form (see :class:`dpqlab.core.pool.PoolConfig`); None keeps every
        codeword that k-means made.
    """

    codec: Codec
    pool: PoolConfig | None = None

    def __post_init__(self) -> None:
        """Refuse a budget for a pool that does not exist."""
        if self.pool is not None and not isinstance(self.codec, CodebookCodec):
            raise ConfigError(
                f"{self.codec.describe()} has no codebooks, so there is no pool to squeeze: leave "
                "pool out, or use a CodebookCodec"
            )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Which codec the layers of a type with a matching name get.

    Attributes
    ----------
    pattern
        Shell pattern on the module's full name (``*`` also matches dots), case-sensitive.
    codec
        The codec, or None to keep the layer.
    pool
        How its codebooks are squeezed after k-means; None keeps every codeword.
    reason
        Why a layer is kept; shown in the list of skipped layers.
    layer_type
        ``nn.Linear``, or a subclass of it to which the rule is restricted. The rule decides about
        layers of this type and of its subclasses, but compresses those of exactly this type only: a
        subclass may compute something else. Naming a subclass says that it computes what
        ``nn.Linear`` does, which is what takes its place.
    """

    pattern: str
    codec: Codec | None
    pool: PoolConfig | None = None
    reason: str = ""
    layer_type: type[nn.Linear] = nn.Linear

    def __post_init__(self) -> None:
        """Refuse a rule that cannot match."""
        kind: object = self.layer_type
        if not (isinstance(kind, type) and issubclass(kind, nn.Linear)):
            raise ConfigError(
                f"layer_type of the rule {self.pattern!r} is {kind!r}: expected nn.Linear or a "
                "subclass of it"
            )
        if issubclass(kind, PackedLinear):
            raise ConfigError(
                f"layer_type of the rule {self.pattern!r} is {kind.__name__}, whose layers are "
                "compressed already: expected nn.Linear or another subclass of it"
            )
        if not self.pattern:
            raise ConfigError(
                "a rule has an empty pattern: expected a shell pattern such as '*.to_q'"
            )
        if self.codec is None and self.pool is not None:
            raise ConfigError(
                f"the rule {self.pattern!r} keeps its layers, which have no pool: leave pool out, "
                "or give a codec"
            )
        _ = self.coding  # refuses a pool for a codec without codebooks

    @property
    def coding(self) -> Coding | None:
        """Codec and pool, or None where layers are kept."""
        return None if self.codec is None else Coding(codec=self.codec, pool=self.pool)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which Linears to compress, and how to store the rest.

    Attributes
    ----------
    rules
        The first rule that matches a layer's name and type decides; a layer that no rule matches is
        kept.
    rest_dtype
        Storage dtype of every parameter that is kept. ``compress_`` rounds them to it.
    bias_dtype
        Storage dtype of the biases of compressed layers.
    weighted
        Whether k-means weights each sub-vector by the mean of its columns' moments, which
        ``compress_`` is given then.
    name
        For reports.
    """

    rules: tuple[Rule, ...]
    rest_dtype: FloatName = "bfloat16"
    bias_dtype: FloatName = "float16"
    weighted: bool = False
    name: str = "custom"

    def __post_init__(self) -> None:
        """Refuse an impossible plan."""
        if not any(rule.codec for rule in self.rules):
            raise ConfigError(f"plan {self.name!r} compresses nothing: give a rule with a codec")
        for field in ("rest_dtype", "bias_dtype"):
            if getattr(self, field) not in FLOAT_DTYPES:
                raise ConfigError(
                    f"{field} is {getattr(self, field)!r}: expected one of "
                    f"{', '.join(FLOAT_DTYPES)}"
                )

    def codec_for(
        self, name: str, layer_type: type[nn.Linear] = nn.Linear
    ) -> tuple[Codec | None, str]:
        """Return the codec of a layer by name and type, or None and the reason why it is kept."""
        coding, reason = self.coding_for(name, layer_type)
        return None if coding is None else coding.codec, reason

    def coding_for(
        self, name: str, layer_type: type[nn.Linear] = nn.Linear
    ) -> tuple[Coding | None, str]:
        """Return codec and pool of a layer, or None and the reason why it is kept."""
        for rule in self.rules:
            if not (fnmatchcase(name, rule.pattern) and issubclass(layer_type, rule.layer_type)):
                continue
            if rule.codec is None:
                return None, rule.reason or f"kept by the rule {rule.pattern!r}"
            if layer_type is not rule.layer_type:
                wanted = "nn.Linear" if rule.layer_type is nn.Linear else rule.layer_type.__name__
                return None, f"not a plain {wanted} but {layer_type.__name__}"
            return rule.coding, ""
        return None, f"no rule of the plan {self.name!r} matches"

    @classmethod
    def for_blocks(
        cls,
        codecs: Codec | Coding | Mapping[str, Codec | Coding | None],
        *,
        blocks: str = "transformer_blocks",
        rest_dtype: FloatName = "bfloat16",
        bias_dtype: FloatName = "float16",
        weighted: bool = False,
        name: str = "custom",
    ) -> Plan:
        """Compress the Linears of a model's blocks, but neither the embedder nor the ends.

        Parameters
        ----------
        codecs
            One codec for all layers, or codecs by pattern on the kind (``"attn1.*"``,
            ``"ff.net.2"``; see :func:`kind_of`), the first match wins; None keeps the kind. A
            ``Coding`` is a codec with a budget for its pool.
        blocks
            Name of the list of blocks.

        Examples
        --------
        >>> pq = CodebookCodec(d=4, k=32)
        >>> squeezed = Coding(codec=pq, pool=PoolConfig(budget=0.25))
        >>> plan = Plan.for_blocks({"attn1.*": squeezed, "ff.*": pq})
        >>> plan.coding_for("transformer_blocks.0.attn1.to_q")[0].pool.budget
        0.25
        """
        by_kind = codecs if isinstance(codecs, Mapping) else {"*": codecs}
        rules = [Rule(pattern="*.norm1.emb.*", codec=None, reason=EMBEDDER_REASON)]
        for kind, given in by_kind.items():
            coding = given if given is None or isinstance(given, Coding) else Coding(codec=given)
            codec, pool = (None, None) if coding is None else (coding.codec, coding.pool)
            rules.append(Rule(pattern=f"{blocks}.*.{kind}", codec=codec, pool=pool))
        rules.append(Rule(pattern=f"{blocks}.*", codec=None))
        rules.append(Rule(pattern="*", codec=None, reason=OUTSIDE_REASON))
        return cls(
            rules=tuple(rules),
            rest_dtype=rest_dtype,
            bias_dtype=bias_dtype,
            weighted=weighted,
            name=name,
        )


def kind_of(name: str) -> str:
    """Return what a layer is within its block: its name after the block's index.

    Examples
    --------
    >>> kind_of("transformer_blocks.3.ff.net.0.proj")
    'ff.net.0.proj'
    >>> kind_of("proj_out_1")
    'proj_out_1'
    """
    _, inside = split_block_name(name)
    return inside or name


def split_block_name(name: str) -> tuple[str, str]:
    """Split a name at its first number: the path of the list of blocks, and the path in the block.

    Both are empty when there is no number, or nothing behind it.
    """
    parts = name.split(".")
    for index, part in enumerate(parts[:-1]):
        if part.isdecimal():
            return ".".join(parts[:index]), ".".join(parts[index + 1 :])
    return "", ""

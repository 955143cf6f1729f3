"""The closed, versioned schema of ``quantization_config`` in transformer/config.json.

From it alone follow the name, dtype and shape of every stored tensor of a compressed layer, in
plain integer arithmetic: sizes are checked before anything is allocated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dpqlab.checkpoint.documents import (
    MAX_INTEGER,
    Json,
    as_list,
    as_object,
    bounded,
    closed,
    module_name,
    one_of,
    shown,
)
from dpqlab.core import (
    CodebookCodec,
    Codec,
    ScalarCodec,
    code_bits,
    codec_from_dict,
    packed_size,
    position_count,
)
from dpqlab.core.packing import MAX_BITS
from dpqlab.errors import CheckpointError, ConfigError
from dpqlab.nn.plan import FLOAT_DTYPES, FloatName

FORMAT_VERSION = 1
QUANT_METHOD = "dpqlab"
MAX_LAYERS = 10_000
MAX_FEATURES = 2**20
MAX_WEIGHTS = 2**31
MAX_INDEXED_ROWS = 2**MAX_BITS
"""Most codewords that a table can tell apart."""

STORED_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""What safetensors calls the float dtypes."""

_PROVENANCE_KEY = re.compile(r"[A-Za-z0-9_.\- ]{1,64}")


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Dtype (as safetensors calls it) and shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        count = {"U8": 1, "F16": 2, "BF16": 2, "F32": 4, "I32": 4}[self.dtype]
        for size in self.shape:
            count *= size
        return count


@dataclass(frozen=True, kw_only=True)
class LayerEntry:
    """How one compressed layer is stored.

    Attributes
    ----------
    codec, shape, bias
        The codec, (out, in), and whether there is a bias.
    pool_of
        The layer whose pool this one shares, or None. What finds a codeword is shared too, unless
        there is a table: of that, and of its sizes, each layer has its own.
    pool_rows
        Codewords in the pool; 0 for a scalar codec.
    table_rows
        Entries of the layer's table, one for each code of each codebook; None without a table,
        where codes count the pool's rows.
    ragged
        Whether codebooks differ in size; their sizes are stored then.
    code_bits
        Bits of one code.
    """

    codec: Codec
    shape: tuple[int, int]
    bias: bool
    pool_of: str | None = None
    pool_rows: int = 0
    table_rows: int | None = None
    ragged: bool = False
    code_bits: int

    @property
    def positions(self) -> int:
        """Codes in a row."""
        columns = self.shape[1]
        if isinstance(self.codec, ScalarCodec):
            return columns
        return position_count(columns, self.codec.d)

    @property
    def scopes(self) -> int:
        """Codebooks of the layer."""
        if isinstance(self.codec, ScalarCodec):
            return 0
        if self.codec.scope in ("position", "group"):
            return -(-self.positions // self.codec.group)
        return 1

    @property
    def rows(self) -> int:
        """Codes of all codebooks together: those of the table, or of the pool without one."""
        return self.pool_rows if self.table_rows is None else self.table_rows

    @property
    def entry_bits(self) -> int:
        """Bits of one entry of a table."""
        return code_bits(self.pool_rows)

    def book_of(self, name: str) -> str:
        """Return the layer that stores how codes of the layer ``name`` find their codeword."""
        return name if self.table_rows is not None else self.pool_of or name

    def tensors(self, name: str, bias_dtype: str) -> Iterator[tuple[str, TensorSpec]]:
        """Yield the tensors of the layer called ``name``."""
        out, columns = self.shape
        packed = packed_size(out * self.positions, self.code_bits)
        yield f"{name}.weight", TensorSpec(dtype="U8", shape=(packed,))
        if isinstance(self.codec, ScalarCodec):
            groups = -(-columns // self.codec.group_size)
            yield f"{name}.scale", TensorSpec(dtype="F16", shape=(out, groups))
        else:
            if self.pool_of is None:
                shape = (self.pool_rows, self.codec.d)
                yield f"{name}.pool", TensorSpec(dtype="F16", shape=shape)
            if self.ragged and self.book_of(name) == name:
                yield f"{name}.sizes", TensorSpec(dtype="I32", shape=(self.scopes,))
            if self.table_rows is not None:
                packed = packed_size(self.table_rows, self.entry_bits)
                yield f"{name}.table", TensorSpec(dtype="U8", shape=(packed,))
            if self.codec.row_scale:
                yield f"{name}.scale", TensorSpec(dtype="F16", shape=(out,))
        if self.bias:
            yield f"{name}.bias", TensorSpec(dtype=STORED_DTYPES[bias_dtype], shape=(out,))

    def to_dict(self) -> dict[str, Json]:
        """Return the entry as JSON values."""
        entry: dict[str, Json] = {
            "codec": self.codec.to_dict(),
            "shape": list(self.shape),
            "bias": self.bias,
            "code_bits": self.code_bits,
        }
        if isinstance(self.codec, CodebookCodec):
            entry |= {"pool_rows": self.pool_rows, "ragged": self.ragged}
        if self.table_rows is not None:
            entry["table_rows"] = self.table_rows
        if self.pool_of is not None:
            entry["pool_of"] = self.pool_of
        return entry

    @classmethod
    def from_dict(cls, value: Json, what: str) -> LayerEntry:
        """Check and build an entry; ``what`` names it in errors."""
        common = {"codec": dict, "shape": list, "bias": bool, "code_bits": int}
        pooled = {"pool_rows": int, "ragged": bool}
        shared = {"pool_of": str, "table_rows": int}
        fields = closed(value, what, common, pooled | shared)
        try:
            codec = codec_from_dict(fields["codec"])
        except ConfigError as error:
            raise CheckpointError(f"{what}: {shown(error, 300)}") from None
        if isinstance(codec, CodebookCodec):
            closed(value, what, common | pooled, shared)
        else:
            closed(value, what, common)
        entry = cls(
            codec=codec,
            shape=_shape(fields["shape"], what),
            bias=fields["bias"],
            pool_of=fields.get("pool_of"),
            pool_rows=fields.get("pool_rows", 0),
            table_rows=fields.get("table_rows"),
            ragged=fields.get("ragged", False),
            code_bits=fields["code_bits"],
        )
        entry.check(what)
        return entry

    def check(self, what: str) -> None:
        """Raise :class:`CheckpointError` if sizes do not fit each other."""
        if isinstance(self.codec, ScalarCodec):
            bounded(self.codec.group_size, f"{what}: group_size", 1, self.shape[1])
            bounded(self.code_bits, f"{what}: code_bits", self.codec.bits, self.codec.bits)
            return
        bounded(self.codec.d, f"{what}: d", 1, self.shape[1])
        bounded(self.codec.group, f"{what}: group", 1, self.positions)
        rows, least, largest = "pool_rows", self.scopes, self.scopes * self.codec.k
        if self.table_rows is not None:
            rows = "table_rows"
            # how many of them are too many for its tables is seen where all sharers are known
            bounded(self.pool_rows, f"{what}: pool_rows", 1, MAX_INDEXED_ROWS)
        bounded(self.rows, f"{what}: {rows}", least, largest)
        fewest = code_bits(-(-self.rows // self.scopes))
        most = self.codec.code_bits if self.ragged else fewest
        bounded(self.code_bits, f"{what}: code_bits", fewest, most)
        one_book = self.scopes == 1
        if (self.ragged and one_book) or (not self.ragged and self.rows % self.scopes):
            raise CheckpointError(
                f"{what}: {self.rows} codewords for {self.scopes} codebooks, ragged "
                f"{self.ragged}: they cannot be divided so"
            )


@dataclass(frozen=True, kw_only=True)
class QuantizationConfig:
    """Everything that a compressed folder says about its compression."""

    rest_dtype: FloatName
    bias_dtype: FloatName
    layers: Mapping[str, LayerEntry]
    tied: tuple[tuple[str, tuple[str, ...]], ...]
    provenance: Mapping[str, str | int | float]

    def tensors(self) -> Iterator[tuple[str, TensorSpec]]:
        """Yield the tensors of all compressed layers."""
        for name, entry in self.layers.items():
            yield from entry.tensors(name, self.bias_dtype)

    def to_dict(self) -> dict[str, Json]:
        """Return the JSON values of ``quantization_config``."""
        return {
            "quant_method": QUANT_METHOD,
            "format_version": FORMAT_VERSION,
            "rest_dtype": self.rest_dtype,
            "bias_dtype": self.bias_dtype,
            "layers": {name: entry.to_dict() for name, entry in self.layers.items()},
            "tied": [[first, list(others)] for first, others in self.tied],
            "provenance": dict(self.provenance),
        }

    @classmethod
    def from_dict(cls, value: Json) -> QuantizationConfig:
        """Check and build the config from untrusted JSON values.

        Raises
        ------
        CheckpointError
            For unknown or missing keys, wrong types, another version, absurd or contradictory
            sizes.
        """
        what = "quantization_config"
        # the version first: a newer one may have other keys, and should be told apart
        version = (as_object(value) or {}).get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise CheckpointError(
                f"{what} has format_version {shown(version)}: this dpqlab reads version "
                f"{FORMAT_VERSION}; use a newer dpqlab"
            )
        fields = closed(
            value,
            what,
            {
                "quant_method": str,
                "format_version": int,
                "rest_dtype": str,
                "bias_dtype": str,
                "layers": dict,
                "tied": list,
                "provenance": dict,
            },
        )
        one_of(fields["quant_method"], f"{what}: quant_method", (QUANT_METHOD,))
        for key in ("rest_dtype", "bias_dtype"):
            one_of(fields[key], f"{what}: {key}", tuple(FLOAT_DTYPES))
        bounded(len(fields["layers"]), f"{what}: the number of layers", 1, MAX_LAYERS)
        layers = {
            module_name(name, "a layer's name"): LayerEntry.from_dict(entry, f"layer {shown(name)}")
            for name, entry in fields["layers"].items()
        }
        _check_sharing(layers)
        return cls(
            rest_dtype=fields["rest_dtype"],
            bias_dtype=fields["bias_dtype"],
            layers=layers,
            tied=_tied(fields["tied"]),
            provenance=check_provenance(fields["provenance"]),
        )


def check_provenance(value: Mapping[Json, Json]) -> dict[str, str | int | float]:
    """Return ``value`` if it is a small flat mapping of names to strings and finite numbers."""
    bounded(len(value), "provenance: the number of entries", 0, 100)
    for key, item in value.items():
        if type(key) is not str or not _PROVENANCE_KEY.fullmatch(key):
            raise CheckpointError(
                f"provenance has the key {shown(key)}: expected 1 to 64 letters, digits, "
                "_ . - or spaces"
            )
        if type(item) is str:
            bounded(len(item), f"provenance: the length of {key!r}", 0, 4000)
        elif type(item) in (int, float):
            bounded(item, f"provenance: {key!r}", -MAX_INTEGER, MAX_INTEGER)
        else:
            raise CheckpointError(f"provenance: {key!r} is neither a string nor a number")
    return dict(value)


def _shape(value: list[Json], what: str) -> tuple[int, int]:
    if len(value) != 2 or any(type(size) is not int for size in value):
        raise CheckpointError(f"{what}: shape is {shown(value)}: expected [out, in]")
    out, columns = value
    for size in value:
        bounded(size, f"{what}: a size of the weight", 1, MAX_FEATURES)
    bounded(out * columns, f"{what}: the number of weights", 1, MAX_WEIGHTS)
    return out, columns


def _check_sharing(layers: Mapping[str, LayerEntry]) -> None:
    tables: dict[str, int] = {}
    for name, entry in layers.items():
        owner = layers.get(entry.pool_of or name)
        if entry.pool_of is not None and not (
            owner is not None and owner.pool_of is None and _may_share(owner, entry)
        ):
            raise CheckpointError(
                f"layer {name!r} shares the pool of {shown(entry.pool_of)}, which is no layer with "
                "a pool of its own and the same codec, of a kind that layers share"
            )
        if entry.table_rows is not None:
            tables[entry.pool_of or name] = tables.get(entry.pool_of or name, 0) + entry.table_rows
    for name, rows in tables.items():
        if layers[name].pool_rows > rows:
            raise CheckpointError(
                f"layer {name!r}: its pool has {layers[name].pool_rows} codewords, but the tables "
                f"of all layers that use it name {rows} at most"
            )


def _may_share(owner: LayerEntry, entry: LayerEntry) -> bool:
    """Say whether both can use one pool: an indexed one whatever their tables, another as it is."""
    alike = (owner.codec, owner.pool_rows) == (entry.codec, entry.pool_rows)
    if isinstance(entry.codec, ScalarCodec) or entry.codec.across == "layer":
        return False  # such a codec says that each layer has its own
    if owner.table_rows is not None:
        return alike and entry.table_rows is not None
    book, mine = ((e.table_rows, e.scopes, e.ragged, e.code_bits) for e in (owner, entry))
    return alike and book == mine


def _tied(value: list[Json]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    bounded(len(value), "the number of tied groups", 0, MAX_LAYERS)
    groups: list[tuple[str, tuple[str, ...]]] = []
    seen: set[str] = set()
    for group in value:
        pair = as_list(group) or []
        others = as_list(pair[1]) if len(pair) == 2 else None
        if not others:
            raise CheckpointError("a tied group is not of the form [first, [other, ...]]")
        names = [module_name(name, "a tied module") for name in (pair[0], *others)]
        if len({*names}) != len(names) or seen.intersection(names):
            raise CheckpointError(f"the tied module {names[0]!r} or one tied to it is named twice")
        seen.update(names)
        groups.append((names[0], tuple(names[1:])))
    return tuple(groups)
